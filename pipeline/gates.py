"""Gates: is this an upright frontal chest radiograph, of the kind that the model knows?"""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from pipeline.types import Image

THUMBNAIL = 28
"""A thumbnail's pixels a side: lungs, heart and shoulders are there, noise and letters are not."""
_SEEN = 56
_LEAST_VARIANCE = 1e-6  # of thumbnails whose SD is 1: alike films do not make a gate of no width
_Vector = npt.NDArray[np.float32]


class ViewClassifier(nn.Module):
    """[n, 1, h, w] films -> logits of "upright frontal chest radiograph" [n].

    Films are standardised first: contrast and brightness do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64, 64)
        self.layers = nn.Sequential(
            *(_halving(i, o) for i, o in itertools.pairwise(widths)),
            nn.Flatten(),
            nn.Linear(widths[-1] * (_SEEN // 16 + 1) ** 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits; see the class."""
        x = functional.interpolate(x, (_SEEN, _SEEN), mode="bilinear", antialias=True)
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-6)
        logits: torch.Tensor = self.layers(x)
        return logits[:, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Thumbnails of chest films as a Gaussian (probabilistic PCA: Tipping and Bishop, 1999).

    `mean` [d], `axes` [k, d] orthonormal, `variances` [k], `residual` the mean variance per
    dimension outside the axes.
    """

    mean: _Vector
    axes: _Vector
    variances: _Vector
    residual: float

    def distance(self, plane: Image) -> float:
        """Mahalanobis distance squared per dimension of a grid film; about 1 for a usual chest."""
        x = thumbnail(plane) - self.mean
        along = self.axes @ x
        outside = float(x @ x - along @ along) / self.residual
        return (float((along**2 / self.variances).sum()) + outside) / len(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGate:
    """Two looks at a film: a classifier for what it was taught to tell apart (other parts of the
    body, turned, inverted), and a Gaussian for what nobody thought of.

    A film passes whose logit is at least `least_logit` and whose distance is at most `limit`.
    """

    classifier: ViewClassifier
    gaussian: Gaussian
    least_logit: float
    limit: float

    def refusal(self, plane: Image) -> str:
        """Why a grid film is not believed to be a chest; empty if it is."""
        logit, distance = self.logit(plane), self.gaussian.distance(plane)
        if logit >= self.least_logit and distance <= self.limit:
            return ""
        return (
            "not a chest: the picture does not look like an upright frontal chest radiograph "
            f"(image gate: logit {logit:.1f}, at least {self.least_logit:.1f}; "
            f"distance {distance:.1f}, at most {self.limit:.1f})"
        )

    @torch.inference_mode()
    def logit(self, plane: Image) -> float:
        """The classifier's word on one grid film."""
        return float(self.classifier(torch.from_numpy(np.ascontiguousarray(plane))[None, None]))


def thumbnail(plane: Image) -> _Vector:
    """[side, side] -> [784], block means, mean 0 and SD 1."""
    step, rest = divmod(plane.shape[0], THUMBNAIL)
    if rest:  # a grid that 28 does not divide: blocks that overlap, so that no border is lost
        film = torch.from_numpy(np.array(plane, np.float32))[None, None]
        small = functional.adaptive_avg_pool2d(film, THUMBNAIL)[0, 0].numpy()
    else:
        small = plane.reshape(THUMBNAIL, step, THUMBNAIL, step).mean((1, 3))
    vector = np.asarray(small.ravel(), np.float32)
    standard = (vector - vector.mean()) / (vector.std() + np.float32(1e-6))
    return np.asarray(standard, np.float32)


def fit(thumbnails: npt.NDArray[np.float32], axes: int) -> Gaussian:
    """The Gaussian of [n, d] thumbnails, with so many axes at most.

    Half of what n films allow: the others tell how far films lie from the axes.
    """
    axes = min(axes, len(thumbnails) // 2)
    mean = thumbnails.mean(0)
    _, spread, directions = np.linalg.svd(thumbnails - mean, full_matrices=False)
    variances = np.asarray(spread**2 / len(thumbnails), np.float32).clip(min=_LEAST_VARIANCE)
    return Gaussian(
        mean=mean,
        axes=directions[:axes],
        variances=variances[:axes],
        residual=float(variances[axes:].sum() / (thumbnails.shape[1] - axes)),
    )


def _halving(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
    )
