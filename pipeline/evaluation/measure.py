"""All that `vald-node evaluate` measures of a model, on real films.

Choose on `dev`, report on `test`, once. Every number has its 95 % interval over films where one can
be given.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline import checks, probe, regions
from pipeline.anatomy import Mask
from pipeline.calibration import HealthyReference, Odds
from pipeline.evaluation import (
    audits,
    localisation,
    reliability,
    shares,
    tables,
)
from pipeline.evaluation.cases import (
    SIDE,
    Case,
    CaseMaker,
    Judges,
    Track,
    as_pair,
)
from pipeline.evaluation.edits import Edits
from pipeline.evaluation.inducing import Inducing
from pipeline.evaluation.keeping import Keeper
from pipeline.evaluation.reconstruction import Reconstruction
from pipeline.evaluation.repeating import Repeating
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.selection import Selection
from pipeline.evaluation.tables import SEED, Json, interval
from pipeline.evaluation.validity import Pair
from pipeline.evidence import Evidence, findings
from pipeline.explainer import Explainer
from pipeline.preprocess import GRID
from pipeline.training.dataset import FilmRow, LocalisedRow
from pipeline.types import Attribution, Image, Mode, Radiograph, Unlike
from pipeline.weights import LoadedModel

_LEAST_FILMS = 2  # another film's map is a control: one film has none
_LEAST_OF_A_CLASS = 8  # below this an area under a curve says nothing
_LOW_P = 0.05
_WHY_EMPTY = {
    "image_gate": "the model has no image gate",
    "fidelity": "no source has 20 normal films and 10 others",
    "reliability": "the model has no healthy reference in this mode, or no film is normal",
    "induction": "the model does not edit in pairs",
    "gate_opened_by_the_null_edit": "the model has no gate",
}
"""Of sections, and of what validity tells, that may have nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured, ready for JSON, and the boxed films to be shown beside it.

    Under `notes` the numbers say, a sentence each, what could not be measured and why.
    """

    numbers: Json
    cases: dict[str, list[Case]]


class Measurement:
    """Measures one model in one mode, beside its rivals, on one selection of films."""

    def __init__(
        self,
        model: LoadedModel,
        mode: Mode,
        judges: Judges,
        films: Selection,
        track: Track[Any],
        keeper: Keeper | None = None,
    ) -> None:
        self._model, self._mode, self._judges = model, mode, judges
        self._films, self._track = films, track
        self._maker = CaseMaker(model, mode, judges, keeper)
        self._behind = Reconstruction(self._maker, track)
        self._explainer = Explainer(model)
        self._threshold = model.settings.reading(mode).threshold
        self._notes: list[str] = films.notes

    def everything(self, without: Collection[str] = ()) -> Evaluation:
        """The whole table, but for the SECTIONS that are left out."""
        cases = self._cases()
        seen = self._see(self._films.rows(lambda _: True))
        adult = [film for film in seen if not film.row.paediatric]
        edits = Edits(self._judges, self._maker, self._track)
        inducing = Inducing(self._model, self._judges, self._track)
        sections: dict[str, Callable[[], Json]] = {
            "reconstruction": lambda: self._behind.everything(seen, cases),
            "normals": lambda: self._normals(adult),
            "image_gate": lambda: self._gated(seen),
            "status": lambda: self._statuses(adult, cases),
            "image_score": lambda: self._image_scores(seen),
            "validity": lambda: edits.validity(adult, cases),
            "fidelity": lambda: edits.likeness(seen),
            "reliability": lambda: self._reliability(adult),
            "seeds": lambda: Repeating(self._explained, self._track).everything(adult),
            "oracle": lambda: edits.oracle(adult),
            "induction": lambda: inducing.everything(adult),
        }
        numbers: Json = {
            **self._heading(),
            "localisation": {name: self._localisation(found) for name, found in cases.items()},
            **{name: make() for name, make in sections.items() if name not in without},
            **self._pace(),
            "notes": self._notes,
        }
        told = {**numbers, **numbers.get("validity", {})}
        self._notes += [
            f"nothing is said of {name.replace('_', ' ')}: {why}"
            for name, why in _WHY_EMPTY.items()
            if told.get(name) == {}
        ]
        return Evaluation(numbers=numbers, cases=cases)

    def maps(self) -> Evaluation:
        """The part that is of maps alone: where they point, and how many normal films they mark."""
        cases = self._cases()
        normal = self._films.rows(lambda row: row.label == "Normal" and not row.paediatric)
        numbers: Json = {
            **self._heading(),
            "localisation": {name: self._localisation(found) for name, found in cases.items()},
            "normals": self._normals(self._see(normal)),
            "notes": self._notes,
        }
        return Evaluation(numbers=numbers, cases=cases)

    def _heading(self) -> Json:
        return {
            "model": self._model.digest,
            "mode": str(self._mode),
            "part": self._films.part,
            "left_out": self._films.left_out,
            "extractor": self._judges.encoder.name,
        }

    def _cases(self) -> dict[str, list[Case]]:
        """Of each group that has enough films; it is noted which have not."""
        enough = {
            name: rows for name, rows in self._films.groups.items() if len(rows) >= _LEAST_FILMS
        }
        self._notes += [
            f"{name} is left out: it has one film, and another film's map is a control"
            for name in self._films.groups
            if name not in enough
        ]
        return {name: self._cases_of(name, rows) for name, rows in enough.items()}

    def _cases_of(self, name: str, rows: Sequence[LocalisedRow]) -> list[Case]:
        films = self._films.localised_films(rows)
        truths, marked = (self._films.truths(rows, side) for side in (SIDE, GRID))
        return list(self._maker.cases(rows, self._track(films, name), truths, marked))

    def _see(self, rows: Sequence[FilmRow]) -> list[Seen]:
        films = self._films.films(rows)
        shown = self._track(list(zip(rows, films, strict=True)), "films of the manifest")
        return [self._seen(row, film) for row, film in shown]

    def _explained(self, film: Image, seed: int) -> Attribution:
        """One film on the grid, as the product explains it."""
        shown = Radiograph(pixels=film)
        return self._explainer.explain(shown, self._mode, seed, unlike=Unlike.WITHHOLD)

    def _seen(self, row: FilmRow, film: Image) -> Seen:
        made = self._maker.evidence(film)
        status, _ = self._explainer.judged(made, self._mode)
        return Seen(row=row, pair=as_pair(made), status=status, doubts=self._doubts(made))

    def _doubts(self, made: Evidence) -> tuple[str, ...]:
        """By name; none in the paper's mode, which has no checks."""
        if self._mode is Mode.PAPER:
            return ()
        return tuple(checks.doubts(findings(made, self._threshold), self._model.settings.limits))

    def _pace(self) -> Json:
        """Of the edits that this run made; nothing where all were kept from another."""
        seconds = self._maker.seconds
        return {"seconds_per_film": float(np.median(seconds))} if seconds else {}

    def _localisation(self, cases: Sequence[Case]) -> Json:
        truths, lungs = [case.truth for case in cases], [case.lungs for case in cases]
        ours, groups = [case.own for case in cases], [case.row.whose for case in cases]
        own = localisation.precisions(ours, truths)
        shuffled = localisation.shuffled(ours, truths, groups)
        aligned = localisation.shuffled_in_lungs(ours, truths, lungs, groups)
        methods = {name: [case.maps[name] for case in cases] for name in cases[0].maps}
        sides = [localisation.one_side(truth) for truth in truths]
        hits = [self._touches(case) for case in cases]
        return {
            "films": len(cases),
            "patients": len({*filter(None, groups)}) + groups.count(""),
            "methods": {
                name: asdict(localisation.localise(maps, truths, lungs, groups))
                for name, maps in methods.items()
            },
            "shuffled": interval(shuffled, groups),
            "gain_over_shuffled": interval(own - shuffled, groups),
            "gain_over_shuffled_in_lungs": interval(own - aligned, groups),
            "gain_over": {
                name: interval(own - localisation.precisions(maps, truths), groups)
                for name, maps in methods.items()
                if name != str(self._mode)
            },
            "one_sided": {"left": sides.count(-1), "right": sides.count(1)},
            "sensitivity": tables.share(hits, groups),
        }

    def _normals(self, adult: Sequence[Seen]) -> Json:
        """Films without a finding that have any region: of the manifest, of JSRT, pooled."""
        marked: dict[str, list[tuple[bool, str]]] = {}
        for film in filter(lambda film: film.normal, adult):
            mine = marked.setdefault(film.row.source, [])
            mine.append((self._has_region(film.pair), film.row.whose))
        rows = self._films.jsrt_normals
        films = self._films.localised_films(rows)
        shown = self._track(list(zip(rows, films, strict=True)), "JSRT normals")
        marked["jsrt"] = [
            (self._has_region(as_pair(self._maker.evidence(film))), row.whose)
            for row, film in shown
        ]
        return shares.with_a_region(marked)

    def _has_region(self, pair: Pair) -> bool:
        return bool(regions.parts(pair.places, self._threshold))

    def _statuses(self, adult: Sequence[Seen], cases: dict[str, list[Case]]) -> Json:
        """How many films may be relied on, what doubts the others, and what their maps find."""
        found: Json = {**shares.statuses(adult), "doubted": shares.doubted(adult), "localised": {}}
        for name, group in cases.items():
            found["localised"][name] = shares.by_status(
                [self._explainer.judged(case.evidence, self._mode)[0] for case in group],
                localisation.precisions([c.own for c in group], [c.truth for c in group]),
                [self._touches(case) for case in group],
                [case.row.whose for case in group],
            )
        return found

    def _touches(self, case: Case) -> bool:
        """Whether a region of the film has a pixel that readers marked."""
        return localisation.touches(case.pair.places, self._threshold, case.marked)

    def _gated(self, seen: Sequence[Seen]) -> Json:
        """The chest films that the image gate takes for what they are, and what they are not."""
        gate = self._model.image_gate
        if gate is None:
            return {}
        return shares.gated(gate, [(film.pair.film, film.row.whose) for film in seen])

    def _image_scores(self, seen: Sequence[Seen]) -> Json:
        """Within one source: our score beside what the border, the spectrum and the rest know."""
        found: Json = {}
        for source in sorted({film.row.source for film in seen}):
            films = [film for film in seen if film.row.source == source]
            normal_films, sick_films = tables.counts([film.normal for film in films])
            if min(normal_films, sick_films) < _LEAST_OF_A_CLASS:
                self._notes.append(
                    f"no image score of {source}: {normal_films} normal and {sick_films} other "
                    f"films, and {_LEAST_OF_A_CLASS} of each are needed"
                )
                continue
            scores = {
                "score_in_lungs": [self._score(film, film.peak_in_lungs) for film in films],
                "peak_in_lungs": [film.peak_in_lungs for film in films],
                "score": [self._score(film, film.peak) for film in films],
                **self._audits(source, films),
            }
            normal, groups = [f.normal for f in films], [f.row.whose for f in films]
            found[source] = {"films": len(films), **tables.aurocs(normal, scores, groups)}
        return found

    def _audits(self, source: str, films: Sequence[Seen]) -> dict[str, list[float]]:
        """What the audits say of the films; nothing where there is nothing that teaches them."""
        rows = self._films.rows(lambda row: row.source == source, split="train")
        if not all(tables.counts([row.label == "Normal" for row in rows])):
            self._notes.append(
                f"no audits beside the image score of {source}: they learn from its films of "
                "split train, which are not of both classes"
            )
            return {}
        taught = self._taught(source, rows)
        judged = [(film.pair.film, film.pair.lungs) for film in films]
        return {
            name: audits.scores(look, taught, judged).tolist()
            for name, look in audits.LOOKS.items()
        }

    def _score(self, film: Seen, peak: float) -> float:
        """Log odds of a finding, where the model gives them, else the peak."""
        healthy = self._model.healthy
        if healthy is None or healthy.odds is None or self._mode is Mode.PAPER:
            return peak
        return healthy.odds.log_odds(peak, self._reading(film))

    def _reading(self, film: Seen) -> float:
        return probe.reading(self._model.probe, film.pair.traits)

    def _taught(self, source: str, rows: Sequence[FilmRow]) -> list[tuple[Image, Mask, bool]]:
        films = self._films.films(rows)
        lungs = [self._maker.lungs(film) for film in self._track(films, f"audits of {source}")]
        return [
            (film, mask, row.label != "Normal")
            for film, mask, row in zip(films, lungs, rows, strict=True)
        ]

    def _reliability(self, adult: Sequence[Seen]) -> Json:
        """Of the probability, where the model gives one, and of conformal p."""
        healthy = self._model.healthy
        if healthy is None or self._mode is Mode.PAPER:
            return {}
        normal = [film for film in adult if film.normal]
        said = healthy.odds if 0 < len(normal) < len(adult) else None
        return {
            **({} if said is None else self._errors(adult, said)),
            **({"conformal": _conformal(normal, healthy)} if normal else {}),
        }

    def _errors(self, adult: Sequence[Seen], odds: Odds) -> Json:
        """Of the probability, films of both classes weighing alike; there are some of both."""
        said = np.array([odds.probability(film.peak, self._reading(film)) for film in adult])
        truth = np.array([float(not film.normal) for film in adult])
        rng = np.random.default_rng(SEED)
        few = min(tables.counts([film.normal for film in adult]))
        even = np.concatenate(
            [rng.choice(np.nonzero(truth == kind)[0], few, replace=False) for kind in (0, 1)]
        )
        groups = [adult[index].row.whose for index in even]
        return {
            "films": len(even),
            "expected_calibration_error": asdict(
                reliability.expected_calibration_error_interval(
                    said[even], truth[even], groups, SEED
                )
            ),
            "brier": interval(reliability.squared_errors(said[even], truth[even]), groups),
            "tenths": reliability.tenths(said[even], truth[even]),
        }


def _conformal(normal: Sequence[Seen], healthy: HealthyReference) -> Json:
    """Of held-out healthy films conformal p should be uniform."""
    p_values = np.array([healthy.conformal_p(film.peak) for film in normal])
    distance, chance = reliability.not_uniform(p_values)
    low: dict[str, list[tuple[bool, str]]] = {}
    for film, p in sorted(zip(normal, p_values, strict=True), key=lambda each: each[0].row.source):
        low.setdefault(film.row.source, []).append((bool(p <= _LOW_P), film.row.whose))
    return {
        "films": len(p_values),
        "largest_gap_to_uniform": distance,
        "chance_if_uniform": chance,
        f"share_at_most_{_LOW_P}": float((p_values <= _LOW_P).mean()),
        "tenths": reliability.counts_by_tenth(p_values),
        "sources": {source: shares.of(said) for source, said in low.items()},
    }
