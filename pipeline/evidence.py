"""What an edit shows of a film, before it is read, and the numbers that its checks look at."""

from dataclasses import dataclass

import numpy as np

from pipeline import anatomy, checks, difference
from pipeline.anatomy import Mask
from pipeline.checks import Findings
from pipeline.probe import Traits
from pipeline.types import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All planes are on the model grid, [side, side] float32; `lungs` is a mask.

    `changes` [draws, side, side] are film minus counterpart, signed; `local` the same before what
    covers whole lungs was taken back, if it was; `maps` [draws, side, side] are each draw's map of
    places, >= 0; `gate` [draws, side, side] in 0 .. 1 (ones without a gate) is what the edit was
    held to; `second` [side, side] in 0 .. 1 is what the second gate says of the film, None without
    one.
    `free` is |film minus counterpart| had the gate been open everywhere, where it was asked for.
    `first` and `still` are what the gate of the first step would change of the film and of its
    counterpart, None without a gate. `traits` are what the network that covers whole lungs, or else
    a probe, looks at makes of the lungs (pipeline.probe), None without either.
    """

    plane: Image
    lungs: Mask
    changes: Image
    local: Image
    maps: Image
    gate: Image
    second: Image | None
    free: Image | None
    first: Image | None
    still: Image | None
    traits: Traits | None


def attribution_map(made: Evidence, threshold: float, blur_px: float) -> Image:
    """[side, side] >= 0: the draws' mean map of places, completed if the model has a gate.

    Without one, the places are all that the counterpart changes. Regions and the score are of
    places alone; regions would be the same of this.
    """
    places = np.asarray(made.maps.mean(0, dtype=np.float32))
    if made.first is None:
        return places
    shown = difference.magnitude(made.changes.mean(0, dtype=np.float32), blur_px)
    return difference.completed(places, difference.held(shown, made.lungs), threshold)


def findings(made: Evidence, threshold: float) -> Findings:
    """The numbers that the checks look at.

    Those of the local edit only where there is a region; that of what is shown beside it always, if
    the model has a gate.
    """
    marked = made.maps.mean(0) >= threshold
    found = bool(marked.any())
    return Findings(
        lungs_found=anatomy.usable(made.lungs),
        stability=checks.overlap(made.maps, threshold) if found else None,
        effect=_effect(made) if found else None,
        off_target=checks.share_outside(made.local.mean(0), made.lungs) if found else None,
        unmarked=_change_unmarked(made, marked),
    )


def _effect(made: Evidence) -> float | None:
    if made.first is None or made.still is None:
        return None
    return checks.closed(made.first, made.still)


def _change_unmarked(made: Evidence, marked: Mask) -> float | None:
    if made.first is None:
        return None
    return checks.change_unmarked(made.changes.mean(0), marked, made.lungs)
