"""Sets how a model's maps are read, on films that no training stage saw.

A calibration's notes are `metrics.jsonl` (of each film its map's maximum and what the probe reads),
`peaks.png` and, until it is done, the maps, from which one that was stopped goes on.
"""

import json
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from pipeline import anatomy, calibration, checks, digest, probe, prompts, settings
from pipeline.anatomy import Mask
from pipeline.calibration import HealthyReference, Odds
from pipeline.errors import DatasetError
from pipeline.explainer import Explainer
from pipeline.limits import Limits
from pipeline.settings import Reading, Settings
from pipeline.training import files, kept, plots
from pipeline.training.budget import Budget
from pipeline.training.kept import FilmByFilm, Shelf
from pipeline.training.session import Progress
from pipeline.types import Image, Mode
from pipeline.weights import LoadedModel

HEALTHY_BELOW = 0.97
"""The share of healthy films whose map nowhere reaches the threshold."""

LEAST_FILMS = 20  # fewer healthy films have no such percentile worth the name
_MOST_UNLIKE = 0.1  # of the films: the image gate itself refuses a few that are chests
_NAMED = 10  # films, in one message
_PAPER_FILMS = 100  # a baseline's threshold may be rougher
_TOP_OF_SCALE = 3.0  # the colour scale and the score end at so many thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One film's map with its lungs, on the grid, what the model's probe reads of it, and the
    change that is shown, None where no check looks at that.
    """

    plane: Image
    lungs: Mask
    reading: float
    change: Image | None

    @property
    def peak(self) -> float:
        """The film's score before any scale: the map's maximum."""
        return float(self.plane.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The model folder that is calibrated, the one that is written (maybe the same), the notes."""

    model: Path
    out: Path
    notes: Path


def calibrate(
    places: Places,
    model: LoadedModel,
    healthy: Sequence[Image],
    abnormal: Sequence[Image],
    progress: Progress,
    budget: Budget | None = None,
    names: Sequence[str] = (),
) -> Settings:
    """`places.out` says a threshold for each mode and holds a healthy reference.

    The threshold is a percentile, over healthy films, of the map's maximum: the max-statistic,
    which bounds the share of healthy films with any region at all. Without `abnormal` films the
    reference keeps the probability that it had, if that was learnt under the same words, or has
    none (normals alone cannot teach it).

    Args:
        places: `out` is replaced whole, or left as it was.
        model: `places.model` loaded, with the probe that is to be written too.
        healthy: films on the model grid, [side, side] float32, 0 black .. 1 white.
        abnormal: the same, with findings; may be empty.
        progress: told of each film.
        budget: what time its maps may take; they are kept.
        names: what the healthy films are called; by their numbers, from 0, without.

    Raises:
        OutOfTimeError: the minutes are spent before all maps are made; nothing but maps is written.
        DatasetError: there are too few different healthy films, they are not of the kind that the
            model reads, or the model marks nothing on any of them.
    """
    demand_enough(len(healthy) - len(copies(healthy)))
    _demand_chests(model, healthy, names or [str(n) for n in range(len(healthy))])
    films = len(healthy) + len(abnormal) + len(healthy[:_PAPER_FILMS])
    shelf = Shelf(folder=places.notes / "maps", progress=progress, budget=budget or Budget())
    maker = _Maker(model, places, shelf, films)
    normal = [maker.map(film, Mode.CALIBRATED, "healthy") for film in healthy]
    sick = [maker.map(film, Mode.CALIBRATED, "sick") for film in abnormal]
    paper = [maker.map(film, Mode.PAPER, "healthy") for film in healthy[:_PAPER_FILMS]]
    said, how = settings.read(places.model), _reading(normal)
    limits = replace(said.limits, unmarked=_unmarked(normal, how.threshold))
    words = prompts.load().normal_prompts()[0]
    said = replace(said, words=words, calibrated=how, paper=_reading(paper), limits=limits)
    maker.picture(normal, sick, how.threshold)
    _write(places, model.probe, _reference(normal, sick, model.healthy), said)
    maker.forget()
    return said


def _write(
    places: Places, taught: probe.Probe | None, reference: HealthyReference, said: Settings
) -> None:
    with files.whole_folder(places.out) as scratch:
        shutil.copytree(places.model, scratch, dirs_exist_ok=True)
        # It has the modes of a model that, perhaps, none may change.
        for path in (scratch, *scratch.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
        if taught is not None:
            probe.save(taught, scratch)
        calibration.save(reference, scratch)
        settings.write(scratch, said)
        digest.write_digests(scratch)


def copies(films: Sequence[Image]) -> dict[int, int]:
    """By number, which films are pixel for pixel another again, and the first that they are."""
    first: dict[str, int] = {}
    found = ((n, first.setdefault(kept.digest_of(film), n)) for n, film in enumerate(films))
    return {n: other for n, other in found if n != other}


def demand_enough(films: int) -> None:
    """A threshold needs that many healthy films, of which none is there twice.

    Raises:
        DatasetError: there are fewer.
    """
    if films < LEAST_FILMS:
        raise DatasetError(f"{films} different healthy films; at least {LEAST_FILMS} are needed")


def in_short(names: Sequence[str]) -> str:
    """The first of these, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _demand_chests(model: LoadedModel, healthy: Sequence[Image], names: Sequence[str]) -> None:
    """A threshold set on what is no chest film would be the threshold of something else."""
    gate = model.image_gate
    if gate is None:
        return
    unlike = [name for film, name in zip(healthy, names, strict=True) if gate.refusal(film)]
    if len(unlike) > _MOST_UNLIKE * len(healthy):
        raise DatasetError(
            f"{len(unlike)} of {len(healthy)} healthy films do not look like upright frontal chest "
            f"radiographs: {in_short(unlike)}: take other films and views out of the folder"
        )


class _Maker:
    """Makes maps, or finds them where a calibration was stopped, and notes what they reach."""

    def __init__(self, model: LoadedModel, places: Places, shelf: Shelf, films: int) -> None:
        self._explainer, self._probe = Explainer(model), model.probe
        self._notes, self._folder, self._noted = places.notes, shelf.folder, 0
        origin = f"{kept.origin_of_edits(places.model)} {model.probe is not None}"
        self._maps = FilmByFilm(shelf, "maps", films, origin)
        self._notes.mkdir(parents=True, exist_ok=True)
        self._metrics.unlink(missing_ok=True)

    @property
    def _metrics(self) -> Path:
        return self._notes / "metrics.jsonl"

    def map(self, film: Image, mode: Mode, kind: str) -> Scored:
        """The film's map, noted as of a healthy or a sick one."""
        parts = self._maps.of([film, str(mode)], lambda: self._make(film, mode))
        traits = parts["traits"].numpy() if "traits" in parts else None
        scored = Scored(
            plane=parts["plane"].numpy(),
            lungs=parts["lungs"].numpy() > 0,
            reading=probe.reading(self._probe, traits),
            change=parts["change"].numpy() if "change" in parts else None,
        )
        self._note({"mode": str(mode), "kind": kind}, scored)
        return scored

    def _make(self, film: Image, mode: Mode) -> kept.Tensors:
        made = self._explainer.evidence(film, mode, seed=0)
        plane = made.maps.mean(0, dtype=np.float32)
        parts = {"plane": plane, "lungs": made.lungs.astype(np.uint8)}
        if made.traits is not None:
            parts["traits"] = made.traits
        if made.first is not None:
            parts["change"] = made.changes.mean(0, dtype=np.float32)
        return {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}

    def _note(self, said: dict[str, str], scored: Scored) -> None:
        line = {"step": self._noted, **said, "peak": scored.peak, "reading": scored.reading}
        with files.writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._noted += 1

    def picture(self, healthy: Sequence[Scored], sick: Sequence[Scored], threshold: float) -> None:
        """peaks.png: how high the maps of both kinds of films reach."""
        well, ill = ([film.peak for film in films] for films in (healthy, sick))
        plots.peaks(well, ill, threshold, self._notes / "peaks.png")

    def forget(self) -> None:
        """The maps are of films: none is left lying once it has served."""
        shutil.rmtree(self._folder)


def _reading(films: Sequence[Scored]) -> Reading:
    threshold = float(np.quantile([film.peak for film in films], HEALTHY_BELOW))
    if not threshold > 0:
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
        if film.change is not None
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
    known = None if before is None else before.odds
    return HealthyReference(
        mean=maps.mean(0),
        sd=maps.std(0),
        place=place,
        scores=np.array([film.peak for film in healthy], np.float32),
        odds=_platt(healthy, sick) if sick else known,
    )


def _platt(healthy: Sequence[Scored], sick: Sequence[Scored]) -> Odds:
    """A logistic curve over the score's logarithm and the reading; classes weigh alike."""
    films = (*healthy, *sick)
    x = np.array([(calibration.log_score(film.peak), film.reading) for film in films])
    y = np.repeat([0, 1], [len(healthy), len(sick)])
    fitted = LogisticRegression(class_weight="balanced").fit(x, y)
    slope, reading_slope = map(float, fitted.coef_[0])
    return Odds(slope=slope, intercept=float(fitted.intercept_[0]), reading_slope=reading_slope)
