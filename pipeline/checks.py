"""May a result be relied upon: each check is one number of the edit beside one limit.

A check looks at how the edit was made, never at what it found: a film may be abnormal and VALID.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import anatomy
from pipeline.anatomy import Mask
from pipeline.limits import Limits
from pipeline.types import Image, Status

_AROUND_PX = 8  # grid pixels beyond the box around the lungs that still belong to it: the pleura


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The checks' numbers; None where the model or the film does not allow one.

    `stability` is the mean overlap (IoU) of the regions of every two draws; `effect` how much of
    the gate closes once the film is replaced by its counterpart, 1 all of it; `off_target` the
    share of the change that lies outside the box around the lungs; `unmarked` the mean change that
    is shown in the lungs where the map marks nothing, as part of the grey range.
    """

    lungs_found: bool
    stability: float | None
    effect: float | None
    off_target: float | None
    unmarked: float | None = None


def judge(found: Findings, limits: Limits) -> tuple[Status, tuple[str, ...]]:
    """The status and, in plain words, why it is not VALID."""
    reasons = tuple(doubts(found, limits).values())
    withheld = found.off_target is not None and found.off_target > limits.off_target_withheld
    if withheld:
        return Status.WITHHELD, reasons
    return (Status.LOW_CONFIDENCE if reasons else Status.VALID), reasons


def doubts(found: Findings, limits: Limits) -> dict[str, str]:
    """Of the checks that doubt, by the name of what they look at: why, in plain words."""
    said = {}
    if not found.lungs_found:
        said["lungs_found"] = "no pair of lungs was found in the picture"
    if found.stability is not None and found.stability < limits.stability:
        said["stability"] = f"the draws mark different places (overlap {found.stability:.2f})"
    if found.effect is not None and found.effect < limits.effect:
        said["effect"] = f"the counterpart still holds what was to be removed ({found.effect:.2f})"
    if found.off_target is not None and found.off_target > limits.off_target:
        said["off_target"] = f"{found.off_target:.0%} of the change lies outside the lungs"
    if found.unmarked is not None and found.unmarked > limits.unmarked:
        said["unmarked"] = (
            "the counterpart differs from the film where the map marks nothing "
            f"({found.unmarked:.1%} of the grey range)"
        )
    return said


def overlap(maps: Image, threshold: float) -> float | None:
    """Mean IoU of the marked pixels of every two of [draws, rows, cols]; None if none is marked."""
    marked = maps >= threshold
    if len(maps) < 2 or not marked.any():
        return None
    pairs = [(a, b) for i, a in enumerate(marked) for b in marked[i + 1 :]]
    return float(np.mean([_iou(a, b) for a, b in pairs]))


def share_outside(change: Image, lungs: Mask) -> float | None:
    """The share of |change| outside the box around both lungs; None without lungs or change.

    The box, not the outline: a lung that is white with disease is not seen as lung.
    """
    whole = float(np.abs(change).sum())
    if whole == 0 or not anatomy.usable(lungs):
        return None
    (row0, row1), (col0, col1) = anatomy.extent(lungs)
    rows = slice(max(0, row0 - _AROUND_PX), row1 + _AROUND_PX)
    cols = slice(max(0, col0 - _AROUND_PX), col1 + _AROUND_PX)
    return 1 - float(np.abs(change)[rows, cols].sum()) / whole


def change_unmarked(change: Image, marked: Mask, lungs: Mask) -> float | None:
    """Mean |change| in the hull of the lungs, but for what is marked; None where that is nothing.

    What a reader sees there, no region speaks of: disease of whole lungs, or an edit gone astray.
    """
    looked_at = (anatomy.hull(lungs) > 0) & ~marked
    return float(np.abs(change)[looked_at].mean()) if looked_at.any() else None


def closed(before: Image, after: Image) -> float:
    """1 - (what the gate would still change) / (what it would have changed)."""
    return 1 - float(after.sum()) / max(float(before.sum()), 1e-9)


def _iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
