"""Films made ready to be judged: truth, lungs and every kind of map, all at one size."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline import anatomy, difference
from pipeline.anatomy import Mask
from pipeline.classifier import Classifier
from pipeline.evaluation import baselines, localisation
from pipeline.evaluation.keeping import Keeper
from pipeline.evaluation.localisation import Truth
from pipeline.evaluation.sets import Encoder
from pipeline.evaluation.validity import Pair, signed
from pipeline.evidence import Evidence, attribution_map
from pipeline.explainer import Explainer
from pipeline.segmenter import Segmenter
from pipeline.training.dataset import LocalisedRow
from pipeline.types import Image, Mode, Target
from pipeline.weights import LoadedModel

_T = TypeVar("_T")
Track = Callable[[Sequence[_T], str], Iterable[_T]]
"""Passes a sequence through and shows how far it has come."""

SIDE = 128
"""Maps are judged at this size: boxes are no finer."""

SEGMENTER = "plain segmenter"
GRAD_CAM = "Grad-CAM"
HELD = ", held to the lungs"
"""Of a rival's map: within their hull, as ours is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """Networks that the edit has not seen: they judge it, or are its rivals.

    The `classifier` was asked while the edit was made, by choices on val; the `witness` never was.
    """

    classifier: Classifier
    segmenter: Segmenter | None
    encoder: Encoder
    witness: Classifier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One film judged: its truth and maps are [SIDE, SIDE], the rest is on the model grid.

    `marked` is the truth there. `mode` is the one that is measured; the map of the other mode
    stands among its rivals.
    """

    row: LocalisedRow
    mode: Mode
    truth: Truth
    marked: Truth
    lungs: Truth
    maps: dict[str, Image]
    evidence: Evidence

    @property
    def own(self) -> Image:
        """The map that is measured."""
        return self.maps[str(self.mode)]

    @property
    def pair(self) -> Pair:
        """The film beside its counterpart."""
        return as_pair(self.evidence)


class CaseMaker:
    """Makes cases by one model, the paper's mode beside it, and the judges.

    `seconds` is what each edit took that was made as the product makes it, none for a kept one.
    """

    def __init__(
        self, model: LoadedModel, mode: Mode, judges: Judges, keeper: Keeper | None = None
    ) -> None:
        self._model, self._mode, self._judges, self._keeper = model, mode, judges, keeper
        self._explainer = Explainer(model)
        self.seconds: list[float] = []

    def evidence(self, film: Image, mode: Mode | None = None, *, free: bool = False) -> Evidence:
        """The edit of one film on the grid, as the product makes it, or made it before."""
        which = mode or self._mode

        def make() -> Evidence:
            began = time.perf_counter()
            made = self._explainer.evidence(film, which, seed=0, free=free)
            if which is self._mode and not free:
                self.seconds.append(time.perf_counter() - began)
            return made

        return self._keeper.evidence(film, which, free=free, make=make) if self._keeper else make()

    def attribution_map(self, made: Evidence, mode: Mode | None = None) -> Image:
        """The map of an edit, [side, side] on the grid, as the product makes it."""
        said = self._explainer.settings
        return attribution_map(made, said.reading(mode or self._mode).threshold, said.blur_px)

    def opening(self, film: Image, target: Target | None = None) -> float | None:
        """How far the gate opens to one film on the grid; see Explainer.opening."""
        return self._explainer.opening(film, 0, target)

    def lungs(self, film: Image) -> Mask:
        """The lungs of one film on the grid."""
        return self._explainer.lungs(film)

    @torch.inference_mode()
    def logit(self, film: Image) -> float:
        """What the independent classifier says of one film: abnormal above 0."""
        return float(self._judges.classifier(signed(film)))

    @torch.inference_mode()
    def reconstruction(self, film: Image) -> Image:
        """One film on the grid after encoding and decoding."""
        x = signed(film).to(self._model.device)
        y = self._model.autoencoder.decode(self._model.autoencoder.encode(x))[0, 0]
        back: Image = (y / 2 + 0.5).clamp(0, 1).cpu().numpy()
        return back

    def cases(
        self,
        rows: Sequence[LocalisedRow],
        films: Iterable[Image],
        truths: Sequence[Truth],
        marked: Sequence[Truth],
    ) -> Iterator[Case]:
        """One case a film; the mean box needs all truths of the group."""
        groups = [row.whose for row in rows]
        for index, (row, film) in enumerate(zip(rows, films, strict=True)):
            made = self.evidence(film, free=True)
            planes = {**self._own(made), **self._others(film, made)}
            maps = {what: localisation.to_side(plane, SIDE) for what, plane in planes.items()}
            maps["mean box of others"] = baselines.mean_of_others(truths, groups, index)
            yield Case(
                row=row,
                mode=self._mode,
                truth=truths[index],
                marked=marked[index],
                lungs=localisation.to_side(made.lungs.astype(np.float32), SIDE) > 0.5,
                maps=maps,
                evidence=made,
            )

    def _own(self, made: Evidence) -> dict[str, Image]:
        """The product's map and the parts that it is made of."""
        plane, spread = difference.mean_and_sd(made.maps)
        found = {str(self._mode): self.attribution_map(made)}
        if made.free is not None and made.first is not None:
            blur_px = self._explainer.settings.blur_px
            gated = [difference.magnitude(change, blur_px) for change in made.local]
            found["places alone"] = plane
            found["gate alone"] = made.gate.mean(0)
            found["gated difference"] = np.mean(gated, axis=0)
            found["ungated difference"] = difference.magnitude(made.free, blur_px)
            found["change shown"] = change_shown(made, blur_px)
        if made.second is not None:
            found["second gate alone"] = made.second
        healthy = self._model.healthy
        if healthy is not None:
            found["Z map"] = healthy.z_map(plane, spread, len(made.maps), made.lungs)
        return found

    def _others(self, film: Image, made: Evidence) -> dict[str, Image]:
        x = signed(film)
        other = Mode.CALIBRATED if self._mode is Mode.PAPER else Mode.PAPER
        found = {
            str(other): self.attribution_map(self.evidence(film, other), other),
            GRAD_CAM: baselines.grad_cam(self._judges.classifier, x),
            "reconstruction error": baselines.reconstruction_error(
                self._model.autoencoder, x.to(self._model.device)
            ),
            "lung mask": made.lungs.astype(np.float32),
            "centre Gaussian": baselines.centre(film.shape[0]),
            "uniform": baselines.uniform(film.shape[0]),
        }
        if self._judges.segmenter is not None:
            found[SEGMENTER] = baselines.segmented(self._judges.segmenter, x)
        # As ours is, so that none is behind for what it marks where no lung is.
        hull = anatomy.hull(made.lungs)
        held = {
            f"{what}{HELD}": found[what] * hull for what in (GRAD_CAM, SEGMENTER) if what in found
        }
        return {**found, **held}


def change_shown(made: Evidence, blur_px: float) -> Image:
    """|film minus counterpart| as a reader sees it, smoothed as other differences are, >= 0."""
    return difference.magnitude(made.plane - as_pair(made).counterfactual, blur_px)


def as_pair(made: Evidence) -> Pair:
    """The film beside its counterpart, which is shown as film minus mean change."""
    return Pair(
        film=made.plane,
        counterfactual=(made.plane - made.changes.mean(0, dtype=np.float32)).clip(0, 1),
        places=made.maps.mean(0, dtype=np.float32),
        lungs=made.lungs,
        traits=made.traits,
    )
