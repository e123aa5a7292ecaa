"""How well a map points at what readers boxed, beside the same score of another film's map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from pipeline import anatomy, regions
from pipeline.evaluation.statistics import Interval, Values, bootstrap, share
from pipeline.training.dataset import Box
from pipeline.types import Image

Truth = npt.NDArray[np.bool_]
"""[side, side]: what readers boxed or outlined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    """Means over films, with intervals, of one kind of map against the truth.

    `auprc` is over the whole film, `in_lung` over the lungs' pixels alone (None where no lesion
    lies in lungs that were found); `pointing` is the share of films whose highest pixel is true;
    `iou` is intersection over union of the map's top pixels,
    as many as are true; `energy` is the share of the map's sum that is true (1907.02957, 3.3).
    """

    films: int
    prevalence: float
    auprc: Interval
    in_lung: Interval | None
    pointing: Interval
    iou: Interval
    energy: Interval


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


def outline(mask: npt.NDArray[np.uint8], side: int) -> Truth:
    """[side, side]: the pixels that a mask of 0 and 255 covers for the most part, or at best."""
    covered = to_side(mask.astype(np.float32), side)
    return covered >= min(127.5, max(float(covered.max()), 1.0))


def localise(
    maps: Sequence[Image], truths: Sequence[Truth], lungs: Sequence[Truth], seed: int = 0
) -> Localisation:
    """Scores of films' maps against their truths."""
    pairs = list(zip(maps, truths, strict=True))
    inside = [
        average_precision(truth[lung], plane[lung])
        for (plane, truth), lung in zip(pairs, lungs, strict=True)
        if truth[lung].any()
    ]
    return Localisation(
        films=len(maps),
        prevalence=float(np.mean([truth.mean() for truth in truths])),
        auprc=bootstrap(precisions(maps, truths), seed),
        in_lung=bootstrap(np.array(inside), seed) if inside else None,
        pointing=share(sum(bool(t.ravel()[int(m.argmax())]) for m, t in pairs), len(maps)),
        iou=bootstrap(np.array([_overlap(m, t) for m, t in pairs]), seed),
        energy=bootstrap(np.array([_energy(m, t) for m, t in pairs]), seed),
    )


def precisions(maps: Sequence[Image], truths: Sequence[Truth]) -> Values:
    """Pixel AUPRC of each film."""
    return np.array([average_precision(t, m) for m, t in zip(maps, truths, strict=True)])


def shuffled(maps: Sequence[Image], truths: Sequence[Truth]) -> Values:
    """For each film the mean AUPRC of every other film's map: what a prior of place would score."""
    return np.array(
        [
            np.mean([average_precision(truth, m) for j, m in enumerate(maps) if j != i])
            for i, truth in enumerate(truths)
        ]
    )


def lung_aligned(plane: Image, lungs: Truth, place: Truth) -> Image:
    """Another film's map moved so that its lungs lie where this film's are; as it is without."""
    if not (lungs.any() and place.any()):
        return plane
    return anatomy.move(plane, lungs, place)


def shuffled_in_lungs(
    maps: Sequence[Image], truths: Sequence[Truth], lungs: Sequence[Truth]
) -> Values:
    """`shuffled` with every other map moved onto the film's own lungs first."""
    found = []
    for i, truth in enumerate(truths):
        others = [lung_aligned(m, lungs[j], lungs[i]) for j, m in enumerate(maps) if j != i]
        found.append(np.mean([average_precision(truth, other) for other in others]))
    return np.array(found)


def right_side(plane: Image, truth: Truth) -> bool | None:
    """Whether most of the map lies in the half of the film that the lesion is in.

    None where the truth is not in one half alone: at least 95 % of it.
    """
    half = plane.shape[1] // 2
    left_share = float(truth[:, :half].sum() / truth.sum())
    if 0.05 < left_share < 0.95:
        return None
    return bool((plane[:, :half].sum() > plane[:, half:].sum()) == (left_share > 0.5))


def touches(plane: Image, threshold: float, truth: Truth) -> bool:
    """Whether a region, as the product finds it on the grid, has a true pixel."""
    return any(bool((part & truth).any()) for part in regions.parts(plane, threshold))


def _overlap(plane: Image, truth: Truth) -> float:
    level = np.partition(plane.ravel(), -int(truth.sum()))[-int(truth.sum())]
    top = plane >= level
    return float((top & truth).sum() / (top | truth).sum())


def _energy(plane: Image, truth: Truth) -> float:
    whole = float(plane.sum())
    return float(plane[truth].sum()) / whole if whole > 0 else float(truth.mean())


def to_side(plane: Image, side: int) -> Image:
    """A square plane scaled to [side, side], area-averaged."""
    picture = Pillow.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.array(picture.resize((side, side), Pillow.Resampling.BOX), np.float32)
