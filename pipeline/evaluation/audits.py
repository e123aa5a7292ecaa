"""What a score could be without looking at the lungs: by border, frequencies, the rest, or shape.

In public data class is largely source (2009.09780). An image score is worth what it adds to these,
measured within one source: each audit is a ridge-regularised logistic regression, taught on the
split train and judged on the same films as the score.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import anatomy
from pipeline.anatomy import Mask
from pipeline.types import Image

_BORDER_PX = 14
_SMALL = 28
_RINGS = 40
_RIDGE = 0.01  # sklearn's C, the inverse of the penalty

Features = npt.NDArray[np.float64]
Look = Callable[[Image, Mask], Features]


def border(film: Image, _lungs: Mask) -> Features:
    """The outermost pixels, block means of 4 x 4."""
    inside = np.ones_like(film, bool)
    inside[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = False
    return _blocks(np.where(inside, film, 0), 4)


def frequencies(film: Image, _lungs: Mask) -> Features:
    """The logarithm of the power spectrum, averaged over rings: no place, no shape."""
    power = np.abs(np.fft.fftshift(np.fft.fft2(film - film.mean()))) ** 2
    rows, cols = np.indices(power.shape)
    centre = power.shape[0] // 2
    ring = (np.hypot(rows - centre, cols - centre) / centre * _RINGS).astype(int)
    counts = np.bincount(ring.ravel(), minlength=_RINGS)[:_RINGS]
    sums = np.bincount(ring.ravel(), power.ravel(), minlength=_RINGS)[:_RINGS]
    return np.log(sums / np.maximum(counts, 1) + 1e-9)


def without_lungs(film: Image, lungs: Mask) -> Features:
    """The film with the hull of its lungs blacked out, block means; all of it where none are found.

    The hull, not the outline: that has a shape, and leaves out the diseased lung it did not find.
    """
    return _blocks(np.where(anatomy.hull(lungs) > 0, 0, film), film.shape[0] // _SMALL)


def lung_shape(_film: Image, lungs: Mask) -> Features:
    """The outline of the lungs alone, block means: how much its shape tells."""
    return _blocks(lungs.astype(np.float32), lungs.shape[0] // _SMALL)


LOOKS: dict[str, Look] = {
    "border": border,
    "frequencies": frequencies,
    "without_lungs": without_lungs,
    "lung_shape": lung_shape,
}


def scores(
    look: Look,
    taught: Sequence[tuple[Image, Mask, bool]],
    judged: Sequence[tuple[Image, Mask]],
) -> Features:
    """What the look says of the judged films, once taught (film, lungs, abnormal)."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=_RIDGE, max_iter=500, class_weight="balanced")
    )
    model.fit(
        np.stack([look(film, lungs) for film, lungs, _ in taught]),
        np.array([abnormal for _, _, abnormal in taught]),
    )
    said: Features = model.decision_function(np.stack([look(f, m) for f, m in judged]))
    return said


def _blocks(plane: npt.NDArray[np.floating], step: int) -> Features:
    side = plane.shape[0] // step
    whole = plane[: side * step, : side * step]
    return np.asarray(whole.reshape(side, step, side, step).mean((1, 3)).ravel(), np.float64)
