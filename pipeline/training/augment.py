"""Random views of a film: a small turn, shift, scale and contrast; never a flip (laterality)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Plane = npt.NDArray[np.float32]
"""[GRID, GRID] float32, 0 black .. 1 white (a mask: 0 .. 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """How far views may differ: fractions of the side, degrees, SD of the log of gamma."""

    scale: float
    aspect: float
    shift: float
    turn_deg: float
    gamma: float


MILD = Jitter(scale=0.08, aspect=0.04, shift=0.04, turn_deg=4.0, gamma=0.15)
BOLD = Jitter(scale=0.18, aspect=0.08, shift=0.07, turn_deg=7.0, gamma=0.3)
STRONG = Jitter(scale=0.3, aspect=0.15, shift=0.12, turn_deg=10.0, gamma=0.5)


def view(rng: np.random.Generator, planes: list[Plane], jitter: Jitter) -> list[Plane]:
    """The same random affine view of every plane; what comes from outside is black."""
    angle = np.deg2rad(rng.uniform(-jitter.turn_deg, jitter.turn_deg))
    scale = 1 + rng.uniform(-jitter.scale, jitter.scale)
    aspect = 1 + rng.uniform(-jitter.aspect, jitter.aspect)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([scale * aspect, scale / aspect])
    side = planes[0].shape[0]
    centre = np.full(2, side / 2)
    offset = centre - matrix @ centre + rng.uniform(-jitter.shift, jitter.shift, 2) * side
    return [ndimage.affine_transform(p, matrix, offset, order=1).astype(np.float32) for p in planes]


def contrast(rng: np.random.Generator, film: Plane, jitter: Jitter) -> Plane:
    """The film under a random gamma."""
    return np.asarray(film ** np.exp(rng.normal(0, jitter.gamma)), np.float32)


def sharpness(rng: np.random.Generator, film: Plane, largest_blur_px: float) -> Plane:
    """The film a little less sharp, half of the time: how sharp it is must not tell its source."""
    if rng.random() < 0.5:
        return film
    return np.asarray(ndimage.gaussian_filter(film, rng.uniform(0, largest_blur_px)), np.float32)
