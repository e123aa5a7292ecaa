"""How much of a lesion comes back behind an autoencoder: as a whole, and what is fine of it.

A ratio of means would not tell a lesion from its own blur; a slope over pixels does, and that over
what is finer than some pixels alone tells how much of its texture is left.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipeline.anatomy import Mask
from pipeline.training.absorption import Known
from pipeline.types import Image

_FINE_PX = 2.0  # SD of what is blurred away: some 4 mm of an adult's film


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Shares, 1 if all of it came back: of a lesion's `contrast`, and of its fine `detail`."""

    contrast: float
    detail: float


def slope(before: Image, after: Image, where: Mask) -> float:
    """<after, before> / <before, before> over the pixels `where`: least squares through the origin.

    NaN where nothing was before.
    """
    x, y = (plane[where].astype(np.float64) for plane in (before, after))
    return float(x @ y / (x @ x)) if x.any() else float("nan")


def fine(plane: Image) -> Image:
    """[h, w]: the plane less what a Gaussian of two pixels leaves of it."""
    return np.asarray(plane - ndimage.gaussian_filter(plane, _FINE_PX), np.float32)


def of_lesion(known: Known, back: Callable[[Image], Image]) -> Kept:
    """Of a lesion that was pasted, so that its film is known without it: of their difference.

    `back` encodes and decodes a film, [side, side] in 0 black .. 1 white.
    """
    before, after = known.film - known.normal, back(known.film) - back(known.normal)
    return Kept(
        contrast=slope(before, after, known.mask),
        detail=slope(fine(before), fine(after), known.mask),
    )
