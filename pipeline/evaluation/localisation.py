"""How well a map points at what readers boxed, beside the same score of another film's map."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from pipeline import anatomy, regions
from pipeline.evaluation.statistics import (
    Groups,
    Interval,
    Values,
    around,
    bootstrap,
    resampled_means,
    share_of,
)
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
    as many as are true; `energy` is the share of the map's sum that is true (1907.02957, 3.3);
    `side` is that of `right_sides`.
    """

    films: int
    prevalence: float
    auprc: Interval
    in_lung: Interval | None
    pointing: Interval
    iou: Interval
    energy: Interval
    side: Interval | None


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
    maps: Sequence[Image],
    truths: Sequence[Truth],
    lungs: Sequence[Truth],
    groups: Groups,
    seed: int = 0,
) -> Localisation:
    """Scores of films' maps against their truths."""
    pairs = list(zip(maps, truths, strict=True))
    seen = [bool(truth[lung].any()) for truth, lung in zip(truths, lungs, strict=True)]
    inside = [
        average_precision(truth[lung], plane[lung])
        for plane, truth, lung in compress(zip(maps, truths, lungs, strict=True), seen)
    ]
    theirs = list(compress(groups, seen))
    hits = np.array([float(t.ravel()[int(m.argmax())]) for m, t in pairs])
    return Localisation(
        films=len(maps),
        prevalence=float(np.mean([truth.mean() for truth in truths])),
        auprc=bootstrap(precisions(maps, truths), seed, groups),
        in_lung=bootstrap(np.array(inside), seed, theirs) if inside else None,
        pointing=share_of(hits, groups),
        iou=bootstrap(np.array([_overlap(m, t) for m, t in pairs]), seed, groups),
        energy=bootstrap(np.array([_energy(m, t) for m, t in pairs]), seed, groups),
        side=right_sides(maps, truths, groups, seed),
    )


def precisions(maps: Sequence[Image], truths: Sequence[Truth]) -> Values:
    """Pixel AUPRC of each film."""
    return np.array([average_precision(t, m) for m, t in zip(maps, truths, strict=True)])


def others(groups: Groups, index: int) -> list[int]:
    """The films of other groups; all other films where there are none."""
    own = groups[index]
    rest = [i for i in range(len(groups)) if i != index]
    return [i for i in rest if not own or groups[i] != own] or rest


def shuffled(maps: Sequence[Image], truths: Sequence[Truth], groups: Groups) -> Values:
    """For each film the mean AUPRC of every other's map: what a prior of place would score."""
    return np.array(
        [
            np.mean([average_precision(truth, maps[j]) for j in others(groups, i)])
            for i, truth in enumerate(truths)
        ]
    )


def lung_aligned(plane: Image, lungs: Truth, place: Truth) -> Image:
    """Another film's map moved so that its lungs lie where this film's are; as it is without."""
    if not (lungs.any() and place.any()):
        return plane
    return anatomy.move(plane, lungs, place)


def shuffled_in_lungs(
    maps: Sequence[Image], truths: Sequence[Truth], lungs: Sequence[Truth], groups: Groups
) -> Values:
    """`shuffled` with every other map moved onto the film's own lungs first."""
    found = []
    for i, truth in enumerate(truths):
        moved = [lung_aligned(maps[j], lungs[j], lungs[i]) for j in others(groups, i)]
        found.append(np.mean([average_precision(truth, other) for other in moved]))
    return np.array(found)


def one_side(truth: Truth) -> int:
    """-1 where the lesion is in the left half of the film, 1 in the right one, 0 in both.

    In one alone is what is so for at least 95 % of its pixels.
    """
    left_share = float(truth[:, : truth.shape[1] // 2].sum() / truth.sum())
    return 0 if 0.05 < left_share < 0.95 else 1 - 2 * (left_share > 0.5)


def right_side(plane: Image, side: int) -> float:
    """1 where most of the map lies in that half, 0 in the other one, a half where in neither."""
    half = plane.shape[1] // 2
    return (1 + side * float(np.sign(plane[:, half:].sum() - plane[:, :half].sum()))) / 2


def right_sides(
    maps: Sequence[Image], truths: Sequence[Truth], groups: Groups, seed: int = 0
) -> Interval | None:
    """The mean of both sides' shares of films whose map lies on the lesion's side.

    Whatever points to one side on every film scores a half, however many lesions are there. None
    where no lesion is on one of the sides. Its interval resamples each side by itself.
    """
    sides = np.array([one_side(truth) for truth in truths])
    if not {-1, 1} <= set(sides.tolist()):
        return None
    means, draws = [], []
    for side in (-1, 1):
        of_it = sides == side
        hits = np.array([right_side(plane, side) for plane in compress(maps, of_it)])
        means.append(hits.mean())
        draws.append(resampled_means(hits, seed + 1 + side, list(compress(groups, of_it))))
    return around(float(np.mean(means)), np.mean(draws, axis=0))


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
