"""How well a map points at what readers boxed, beside the same score of another film's map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from pipeline.training.dataset import Box
from pipeline.types import Image

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95 % bootstrap interval over films."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    """Mean over films of pixel AUPRC: of the film's own map, of the others' maps, and the gain."""

    films: int
    prevalence: float
    auprc: Interval
    shuffled: Interval
    gain: Interval
    pointing: float


def average_precision(truth: npt.NDArray[np.bool_], score: Image) -> float:
    """Area under precision over recall, the step sum of it; ties count as one step.

    Returns NaN where no pixel is true.
    """
    order = np.argsort(-score.ravel(), kind="stable")
    hits = truth.ravel()[order]
    values = score.ravel()[order]
    if not hits.any():
        return float("nan")
    last_of_tie = np.append(np.nonzero(np.diff(values))[0], len(values) - 1)
    found = np.cumsum(hits)[last_of_tie]
    precision = found / (last_of_tie + 1)
    recall = found / found[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def box_mask(boxes: Sequence[Box], side: int) -> npt.NDArray[np.bool_]:
    """[side, side]: inside any box."""
    mask = np.zeros((side, side), bool)
    for box in boxes:
        rows = slice(int(box.y0 * side), max(int(box.y0 * side) + 1, round(box.y1 * side)))
        cols = slice(int(box.x0 * side), max(int(box.x0 * side) + 1, round(box.x1 * side)))
        mask[rows, cols] = True
    return mask


def localise(
    maps: Sequence[Image], truths: Sequence[npt.NDArray[np.bool_]], seed: int = 0
) -> Localisation:
    """Scores of films' maps against their truths; every other film's map is the control."""
    own = np.array([average_precision(t, m) for t, m in zip(truths, maps, strict=True)])
    others = np.array(
        [
            np.mean([average_precision(t, m) for j, m in enumerate(maps) if j != i])
            for i, t in enumerate(truths)
        ]
    )
    peaks = [t.ravel()[int(m.argmax())] for t, m in zip(truths, maps, strict=True)]
    return Localisation(
        films=len(maps),
        prevalence=float(np.mean([t.mean() for t in truths])),
        auprc=bootstrap(own, seed),
        shuffled=bootstrap(others, seed),
        gain=bootstrap(own - others, seed),
        pointing=float(np.mean(peaks)),
    )


def bootstrap(values: npt.NDArray[np.float64], seed: int) -> Interval:
    """The mean of per-film values and its percentile interval (Efron, 1979)."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def to_side(plane: Image, side: int) -> Image:
    """A square plane scaled to [side, side], area-averaged."""
    picture = Pillow.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.array(picture.resize((side, side), Pillow.Resampling.BOX), np.float32)
