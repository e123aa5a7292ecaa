"""How faithful one image is to another."""

import numpy as np

from pipeline.types import Image, Radiograph


def psnr_db(film: Radiograph, other: Image) -> float:
    """10 log10(1 / mean squared error) for the range 0 .. 1, in dB; infinite if equal."""
    error = float(np.square(film.pixels - other, dtype=np.float64).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))
