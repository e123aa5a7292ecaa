"""Sets how a model's maps are read, on films that no training stage saw."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from pipeline import anatomy, calibration, checks, digest, settings
from pipeline.anatomy import Mask
from pipeline.calibration import HealthyReference
from pipeline.errors import DatasetError
from pipeline.explainer import Explainer
from pipeline.limits import Limits
from pipeline.probe import Probe
from pipeline.settings import Reading, Settings
from pipeline.training.session import Progress
from pipeline.types import Image, Mode
from pipeline.weights import LoadedModel

HEALTHY_BELOW = 0.97
"""The share of healthy films whose map nowhere reaches the threshold."""

LEAST_FILMS = 20  # fewer healthy films have no such percentile worth the name
_MOST_UNLIKE = 0.1  # of the films: the image gate itself refuses a few that are chests
_PAPER_FILMS = 100  # a baseline's threshold may be rougher
_TOP_OF_SCALE = 3.0  # the colour scale and the score end at so many thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One film's map with its lungs, on the grid, what the model's probe reads of it, and the
    change that is shown.
    """

    plane: Image
    lungs: Mask
    reading: float
    change: Image
    paired: bool

    @property
    def peak(self) -> float:
        """The film's score before any scale: the map's maximum."""
        return float(self.plane.max())


def calibrate(
    folder: Path,
    model: LoadedModel,
    healthy: Sequence[Image],
    abnormal: Sequence[Image],
    progress: Progress,
) -> Settings:
    """The folder says a threshold for each mode and holds a healthy reference.

    The threshold is a percentile, over healthy films, of the map's maximum: the max-statistic,
    which bounds the share of healthy films with any region at all. Without `abnormal` films the
    reference keeps the probability that it had (a site's own normals cannot teach it).

    Args:
        folder: the model folder, rewritten.
        model: the same, loaded.
        healthy: films on the model grid, [side, side] float32, 0 black .. 1 white.
        abnormal: the same, with findings; may be empty.
        progress: told of each film.

    Raises:
        DatasetError: there are too few healthy films, they are not of the kind that the model
            reads, or the model marks nothing on any of them.
    """
    demand_enough(len(healthy))
    _demand_chests(model, healthy)
    films = len(healthy) + len(abnormal) + len(healthy[:_PAPER_FILMS])
    maker = _Maker(Explainer(model), model.probe, progress, films)
    normal = [maker.map(film, Mode.CALIBRATED) for film in healthy]
    sick = [maker.map(film, Mode.CALIBRATED) for film in abnormal]
    paper = [maker.map(film, Mode.PAPER) for film in healthy[:_PAPER_FILMS]]
    calibration.save(_reference(normal, sick, model.healthy), folder)
    said, how = settings.read(folder), _reading(normal)
    limits = replace(said.limits, unmarked=_unmarked(normal, how.threshold))
    said = replace(said, calibrated=how, paper=_reading(paper), limits=limits)
    settings.write(folder, said)
    digest.write_digests(folder)
    return said


def demand_enough(films: int) -> None:
    """A threshold needs that many healthy films.

    Raises:
        DatasetError: there are fewer.
    """
    if films < LEAST_FILMS:
        raise DatasetError(f"{films} healthy films; at least {LEAST_FILMS} are needed")


def _demand_chests(model: LoadedModel, healthy: Sequence[Image]) -> None:
    """A threshold set on what is no chest film would be the threshold of something else."""
    gate = model.image_gate
    unlike = 0 if gate is None else sum(bool(gate.refusal(film)) for film in healthy)
    if unlike > _MOST_UNLIKE * len(healthy):
        raise DatasetError(
            f"{unlike} of {len(healthy)} healthy films do not look like upright frontal chest "
            "radiographs: take other films and views out of the folder"
        )


class _Maker:
    """Makes maps and counts them."""

    def __init__(
        self, explainer: Explainer, probe: Probe | None, progress: Progress, films: int
    ) -> None:
        self._explainer, self._progress, self._films, self._made = explainer, progress, films, 0
        self._probe = probe

    def map(self, film: Image, mode: Mode) -> Scored:
        made = self._explainer.evidence(film, mode, seed=0)
        self._made += 1
        self._progress(self._made / self._films, f"{mode}: {self._made} films")
        plane = made.maps.mean(0, dtype=np.float32)
        reading = 0.0 if self._probe is None else self._probe.reading(made.traits)
        return Scored(
            plane=plane,
            lungs=made.lungs,
            reading=reading,
            change=made.changes.mean(0, dtype=np.float32),
            paired=made.first is not None,
        )


def _reading(films: Sequence[Scored]) -> Reading:
    threshold = float(np.quantile([film.peak for film in films], HEALTHY_BELOW))
    if not threshold > 0:  # nor where it is no number
        raise DatasetError(
            "the model marks nothing on any of the healthy films, so no threshold can be set: it "
            "is not trained, or another than these films need"
        )
    top = max(threshold, min(1.0, _TOP_OF_SCALE * threshold))
    return Reading(threshold=threshold, scale_max=top)


def _unmarked(films: Sequence[Scored], threshold: float) -> float:
    """What few healthy films are changed by where nothing is marked; see Limits."""
    found = [
        checks.change_unmarked(film.change, film.plane >= threshold, film.lungs)
        for film in films
        if film.paired
    ]
    shown = [change for change in found if change is not None]
    return float(np.quantile(shown, HEALTHY_BELOW)) if shown else Limits().unmarked


def _reference(
    healthy: Sequence[Scored], sick: Sequence[Scored], before: HealthyReference | None
) -> HealthyReference:
    framed = [film for film in healthy if anatomy.usable(film.lungs)]
    if framed:
        place = anatomy.typical_place(np.stack([film.lungs for film in framed]))
        maps = np.stack([anatomy.move(film.plane, film.lungs, place) for film in framed])
    else:  # no segmenter: the frame of the grid itself
        place = np.zeros_like(healthy[0].lungs)
        maps = np.stack([film.plane for film in healthy])
    if sick:
        slope, reading_slope, intercept = _platt(healthy, sick)
    elif before:
        slope, reading_slope, intercept = before.slope, before.reading_slope, before.intercept
    else:
        slope = reading_slope = intercept = 0.0
    return HealthyReference(
        mean=maps.mean(0),
        sd=maps.std(0),
        place=place,
        scores=np.array([film.peak for film in healthy], np.float32),
        slope=slope,
        intercept=intercept,
        reading_slope=reading_slope,
    )


def _platt(healthy: Sequence[Scored], sick: Sequence[Scored]) -> tuple[float, float, float]:
    """Slopes of the score's logarithm and of the reading, and intercept; classes weigh alike."""
    films = (*healthy, *sick)
    x = np.array([(calibration.log_score(film.peak), film.reading) for film in films])
    y = np.repeat([0, 1], [len(healthy), len(sick)])
    fitted = LogisticRegression(class_weight="balanced").fit(x, y)
    slope, reading_slope = map(float, fitted.coef_[0])
    return slope, reading_slope, float(fitted.intercept_[0])
