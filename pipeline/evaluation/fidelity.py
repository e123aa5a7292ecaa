"""How faithful images are to one another."""

import numpy as np
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from pipeline.types import Image

_LEAST_MS_SSIM_PX = (11 - 1) * 2**4


def psnr_db(film: Image, other: Image) -> float:
    """10 log10(1 / mean squared error) for the range 0 .. 1, in dB; infinite if equal."""
    error = float(np.square(film - other, dtype=np.float64).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def ssim(film: Image, other: Image) -> float:
    """Structural similarity (Wang et al., 2004), Gaussian 11 x 11 of SD 1.5, range 0 .. 1."""
    return ssim_where(film, other, np.ones(film.shape, bool))


def ssim_where(film: Image, other: Image, where: np.ndarray) -> float:
    """The mean of the SSIM map over `where` (bool [h, w]); NaN where that is nowhere."""
    _, plane = structural_similarity_index_measure(
        _batch(other),
        _batch(film),
        gaussian_kernel=True,
        sigma=1.5,
        kernel_size=11,
        data_range=1.0,
        return_full_image=True,
    )
    return float(plane[0, 0].numpy()[where].mean()) if where.any() else float("nan")


def ms_ssim(film: Image, other: Image) -> float:
    """Multi-scale structural similarity (Wang et al., 2003), five scales, range 0 .. 1.

    NaN for films that are too small to be halved four times under a kernel of 11 pixels.
    """
    if min(film.shape) <= _LEAST_MS_SSIM_PX:
        return float("nan")
    value = multiscale_structural_similarity_index_measure(
        _batch(other), _batch(film), gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0
    )
    return float(value)


def _batch(plane: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(plane, np.float32))[None, None]
