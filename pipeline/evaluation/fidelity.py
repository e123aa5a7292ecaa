"""How faithful images are: to one another, and as a set to real ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from pipeline.classifier import FEATURES, Classifier
from pipeline.evaluation import inception
from pipeline.evaluation.inception import Inception
from pipeline.types import Image

_LEAST_FILMS = 10  # below this a set has no distance worth the name
_KID_SUBSETS = 50
_LEAST_MS_SSIM_PX = (11 - 1) * 2**4


class Encoder(nn.Module):
    """The features that FID and KID are measured in; `name` is said beside every number."""

    def __init__(self, name: str, network: Classifier | Inception, num_features: int) -> None:
        super().__init__()
        self.name, self.num_features, self._network = name, num_features, network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, h, w] in -1 .. 1 -> [n, num_features]."""
        return self._network.features(x)


def encoder(classifier: Classifier, weights: Path | None) -> Encoder:
    """Inception where its weights are given, else our own chest classifier.

    Raises:
        ModelError: the weights are not Inception's.
    """
    if weights is not None:
        return Encoder("Inception v3, 2048 features", inception.load(weights), inception.FEATURES)
    name = f"VALD chest classifier, {FEATURES} features (not Inception)"
    return Encoder(name, classifier, FEATURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """FID and KID between two sets of films; `kid_sd` is over subsets of a half."""

    fid: float
    kid: float
    kid_sd: float


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


def distance(
    encoder: Encoder, real: torch.Tensor, made: torch.Tensor, seed: int
) -> Distance | None:
    """FID (1706.08500) and KID (1801.01401) of two sets [n, 1, h, w]; None if one is too small."""
    size = min(len(real), len(made))
    if size < _LEAST_FILMS:
        return None
    torch.manual_seed(seed)  # KID draws its subsets from torch's own generator
    fid = FrechetInceptionDistance(feature=encoder)
    kid = KernelInceptionDistance(feature=encoder, subsets=_KID_SUBSETS, subset_size=size // 2)
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(made, real=False)
    mean, sd = kid.compute()
    return Distance(fid=float(fid.compute()), kid=float(mean), kid_sd=float(sd))


def share_of_the_way(value: float, floor: float, ceiling: float) -> float:
    """Where `value` lies between the distance of normal films to themselves and to sick ones."""
    return (value - floor) / (ceiling - floor) if ceiling > floor else float("nan")


def _batch(plane: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(plane, np.float32))[None, None]
