"""All that `vald-node evaluate` measures of a model, on real films.

Choose on `dev`, report on `test`, once. Every number has its 95 % interval over films where one can
be given.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import ndimage

from pipeline import anatomy, induction, prompts
from pipeline.anatomy import Mask
from pipeline.evaluation import (
    audits,
    fidelity,
    localisation,
    reliability,
    sets,
    statistics,
    validity,
)
from pipeline.evaluation.cases import (
    SIDE,
    Case,
    CaseMaker,
    Judges,
    as_pair,
)
from pipeline.evaluation.selection import GROUPS, Selection
from pipeline.evaluation.validity import Pair
from pipeline.explainer import Evidence
from pipeline.training import absorption, lesions
from pipeline.training.dataset import FilmRow
from pipeline.types import Image, Mode
from pipeline.weights import LoadedModel

_LEAST_FILMS = 2  # another film's map is a control: one film has none
_LEAST_OF_A_CLASS = 8  # below this an area under a curve says nothing
_ORACLE_SHARES = (0.05, 0.1, 0.2)  # of the lungs
_RING_PX = 6
_SEED = 0

_T = TypeVar("_T")
Track = Callable[[Sequence[_T], str], Iterable[_T]]
"""Passes a sequence through and shows how far it has come."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A film of the manifest with what the edit made of it."""

    row: FilmRow
    pair: Pair

    @property
    def normal(self) -> bool:
        """Whether its label says so."""
        return self.row.label == "Normal"

    @property
    def peak(self) -> float:
        """The score before any scale: the map's maximum."""
        return float(self.pair.attribution_map.max())

    @property
    def peak_in_lungs(self) -> float:
        """The maximum inside the lungs; of the whole film where none were found."""
        lungs = self.pair.lungs
        inside = self.pair.attribution_map[lungs] if lungs.any() else self.pair.attribution_map
        return float(inside.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured, ready for JSON, and the boxed films to be shown beside it."""

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
    ) -> None:
        self._model, self._mode, self._judges = model, mode, judges
        self._films, self._track = films, track
        self._maker = CaseMaker(model, mode, judges)
        self._threshold = model.settings.reading(mode).threshold
        self._seconds: list[float] = []

    def everything(self) -> Evaluation:
        """The whole table."""
        cases = {name: found for name in GROUPS if (found := self._cases(name))}
        seen = self._see(self._films.rows(lambda _: True))
        adult = [film for film in seen if not film.row.paediatric]
        numbers: Json = {
            **self._heading(),
            "reconstruction": self._reconstruction(seen, cases),
            "localisation": {name: self._localisation(found) for name, found in cases.items()},
            "normals": self._normals(adult),
            "image_gate": self._let_pass(seen),
            "image_score": self._image_scores(seen),
            "validity": self._validity(adult, cases),
            "fidelity": self._fidelity(seen),
            "reliability": self._reliability(adult),
            "oracle": self._oracle(adult),
            "induction": self._induction(adult),
            "seconds_per_film": float(np.median(self._seconds)),
        }
        return Evaluation(numbers=numbers, cases=cases)

    def maps(self) -> Evaluation:
        """The part that is of maps alone: where they point, and how many normal films they mark."""
        cases = {name: found for name in GROUPS if (found := self._cases(name))}
        normal = self._films.rows(lambda row: row.label == "Normal" and not row.paediatric)
        numbers: Json = {
            **self._heading(),
            "localisation": {name: self._localisation(found) for name, found in cases.items()},
            "normals": self._normals(self._see(normal)),
        }
        return Evaluation(numbers=numbers, cases=cases)

    def _heading(self) -> Json:
        return {
            "model": self._model.digest,
            "mode": str(self._mode),
            "part": self._films.part,
            "extractor": self._judges.encoder.name,
        }

    def _cases(self, name: str) -> list[Case]:
        rows = self._films.group(GROUPS[name])
        if len(rows) < _LEAST_FILMS:
            return []
        films = self._films.localised_films(rows)
        truths = [localisation.box_mask(row.boxes, SIDE) for row in rows]
        names = [row.file for row in rows]
        return list(self._maker.cases(names, self._track(films, name), truths))

    def _see(self, rows: Sequence[FilmRow]) -> list[Seen]:
        films = self._films.films(rows)
        shown = self._track(list(zip(rows, films, strict=True)), "films of the manifest")
        return [Seen(row=row, pair=as_pair(self._timed(film))) for row, film in shown]

    def _timed(self, film: Image) -> Evidence:
        began = time.perf_counter()
        made = self._maker.evidence(film)
        self._seconds.append(time.perf_counter() - began)
        return made

    def _reconstruction(self, seen: Sequence[Seen], cases: dict[str, list[Case]]) -> Json:
        """Input against reconstruction, by source; contrast of lesions kept; what a judge loses."""
        back = [self._round_trip(film.pair.film) for film in self._track(seen, "reconstructions")]
        found: Json = {"sources": {}}
        for source in sorted({film.row.source for film in seen}):
            own = [
                (f.pair.film, y) for f, y in zip(seen, back, strict=True) if f.row.source == source
            ]
            found["sources"][source] = {
                "films": len(own),
                "psnr_db": _interval([fidelity.psnr_db(x, y) for x, y in own]),
                "ssim": _interval([fidelity.ssim(x, y) for x, y in own]),
                "ms_ssim": _interval([fidelity.ms_ssim(x, y) for x, y in own]),
            }
        found["contrast_kept"] = {
            name: _interval([c for case in group if (c := self._contrast_kept(case)) is not None])
            for name, group in cases.items()
        }
        judged = [
            (film, self._logit(film.pair.film), self._logit(y))
            for film, y in zip(seen, back, strict=True)
        ]
        found["classifier_auroc"] = {
            "films": _auroc([(film.normal, before) for film, before, _ in judged]),
            "reconstructions": _auroc([(film.normal, after) for film, _, after in judged]),
        }
        return found

    def _contrast_kept(self, case: Case) -> float | None:
        """Lesion minus its surroundings, in the reconstruction as a share of the film's own."""
        film = localisation.to_side(case.evidence.plane, SIDE)
        again = localisation.to_side(self._round_trip(case.evidence.plane), SIDE)
        before, after = (_contrast(plane, case.truth) for plane in (film, again))
        return None if abs(before) < 0.02 else after / before

    def _localisation(self, cases: Sequence[Case]) -> Json:
        truths, lungs = [case.truth for case in cases], [case.lungs for case in cases]
        ours = [case.own for case in cases]
        own = localisation.precisions(ours, truths)
        shuffled = localisation.shuffled(ours, truths)
        aligned = localisation.shuffled_in_lungs(ours, truths, lungs)
        methods = list(cases[0].maps)
        sides = [localisation.right_side(m, t) for m, t in zip(ours, truths, strict=True)]
        one_sided = [side for side in sides if side is not None]
        hits = [
            localisation.touches(m, self._threshold, t) for m, t in zip(ours, truths, strict=True)
        ]
        return {
            "films": len(cases),
            "methods": {
                name: asdict(localisation.localise([c.maps[name] for c in cases], truths, lungs))
                for name in methods
            },
            "shuffled": _interval(shuffled),
            "gain_over_shuffled": _interval(own - shuffled),
            "gain_over_shuffled_in_lungs": _interval(own - aligned),
            "gain_over": {
                name: _interval(
                    own - localisation.precisions([c.maps[name] for c in cases], truths)
                )
                for name in methods
                if name != str(self._mode)
            },
            "right_side": _share(one_sided),
            "sensitivity": _share(hits),
        }

    def _normals(self, adult: Sequence[Seen]) -> Json:
        """Films without a finding that have any region: of the manifest, of JSRT, pooled."""
        marked = {
            source: [
                film.peak >= self._threshold
                for film in adult
                if film.normal and film.row.source == source
            ]
            for source in sorted({film.row.source for film in adult if film.normal})
        }
        rows = self._films.group(lambda row: row.source == "jsrt" and not row.boxes)
        films = self._films.localised_films(rows)
        marked["jsrt"] = [
            bool(self._maker.evidence(film).maps.mean(0).max() >= self._threshold)
            for film in self._track(films, "JSRT normals")
        ]
        pooled = [hit for hits in marked.values() for hit in hits]
        return {
            "with_a_region": _share(pooled),
            "sources": {source: _share(hits) for source, hits in marked.items()},
        }

    def _let_pass(self, seen: Sequence[Seen]) -> Json:
        """The chest films that the image gate takes for what they are."""
        gate = self._model.image_gate
        if gate is None:
            return {}
        return {"let_pass": _share([not gate.refusal(film.pair.film) for film in seen])}

    def _image_scores(self, seen: Sequence[Seen]) -> Json:
        """Within one source: our score beside what the border, the spectrum and the rest know."""
        found: Json = {}
        for source in sorted({film.row.source for film in seen}):
            films = [film for film in seen if film.row.source == source]
            if min(_counts([film.normal for film in films])) < _LEAST_OF_A_CLASS:
                continue
            taught = self._taught(source)
            judged = [(film.pair.film, film.pair.lungs) for film in films]
            found[source] = {
                "films": len(films),
                "score_in_lungs": _auroc(
                    [(film.normal, self._score(film, film.peak_in_lungs)) for film in films]
                ),
                "peak_in_lungs": _auroc([(film.normal, film.peak_in_lungs) for film in films]),
                "score": _auroc([(film.normal, self._score(film, film.peak)) for film in films]),
            }
            for name, look in audits.LOOKS.items():
                said = audits.scores(look, taught, judged)
                found[source][name] = _auroc(
                    [(film.normal, float(s)) for film, s in zip(films, said, strict=True)]
                )
        return found

    def _score(self, film: Seen, peak: float) -> float:
        """Log odds of a finding, where the model gives them, else the peak."""
        healthy = self._model.healthy
        if healthy is None or self._mode is Mode.PAPER:
            return peak
        return healthy.log_odds(peak, film.pair.diffuse)

    def _taught(self, source: str) -> list[tuple[Image, Mask, bool]]:
        rows = self._films.rows(lambda row: row.source == source, split="train")
        films = self._films.films(rows)
        lungs = [self._maker.lungs(film) for film in self._track(films, f"audits of {source}")]
        return [
            (film, mask, row.label != "Normal")
            for film, mask, row in zip(films, lungs, rows, strict=True)
        ]

    def _validity(self, adult: Sequence[Seen], cases: dict[str, list[Case]]) -> Json:
        """What the independent classifier says of films with a finding, by source."""
        groups: dict[str, list[Pair]] = {
            name: [c.pair for c in group] for name, group in cases.items()
        }
        for film in adult:
            if not film.normal:
                groups.setdefault(film.row.source, []).append(film.pair)
        everything = [pair for pairs in groups.values() for pair in pairs]
        donors = _donors(adult)
        judged = {
            name: validity.judge(self._judges.classifier, pairs, donors, _SEED)
            for name, pairs in {**groups, "all": everything}.items()
        }
        outside = [self._outside_lesion(case) for group in cases.values() for case in group]
        return {
            "groups": {name: asdict(found) for name, found in judged.items() if found},
            "ssim_outside_lesion": _interval(outside),
        }

    def _fidelity(self, seen: Sequence[Seen]) -> Json:
        """Are normal counterparts of sick films like real normal ones, within a source?"""
        encoder = self._judges.encoder
        found: Json = {}
        for source in sorted({film.row.source for film in seen}):
            films = [film for film in seen if film.row.source == source]
            normal = [film.pair.film for film in films if film.normal]
            sick = [film.pair for film in films if not film.normal]
            made = [p.counterfactual for p in sick]
            lungs = validity.with_lungs_of(sick, _donors(films), _SEED)
            films_of_sick = [p.film for p in sick]
            standing = sets.standing(encoder, normal, films_of_sick, made, _SEED)
            best = sets.distance(encoder, normal, lungs, _SEED)
            if standing:
                found[source] = {
                    "normal": standing.normal,
                    "abnormal": standing.abnormal,
                    "floor": asdict(standing.floor),
                    "ceiling": asdict(standing.ceiling),
                    "counterparts": asdict(standing.counterparts),
                    "kid_share_of_the_way": asdict(standing.share),
                    "the_same_with_lungs_of_normal_films": best
                    and sets.share_of_the_way(best.kid, standing.floor.kid, standing.ceiling.kid),
                }
        return found

    def _reliability(self, adult: Sequence[Seen]) -> Json:
        """Probability and conformal p, films of both classes weighing alike."""
        healthy = self._model.healthy
        if healthy is None or self._mode is Mode.PAPER:
            return {}
        said = np.array([healthy.probability(film.peak, film.pair.diffuse) for film in adult])
        truth = np.array([float(not film.normal) for film in adult])
        rng = np.random.default_rng(_SEED)
        few = min(_counts([film.normal for film in adult]))
        even = np.concatenate(
            [rng.choice(np.nonzero(truth == kind)[0], few, replace=False) for kind in (0, 1)]
        )
        p_values = np.array([healthy.conformal_p(film.peak) for film in adult if film.normal])
        distance, chance = reliability.not_uniform(p_values)
        return {
            "films": len(even),
            "expected_calibration_error": asdict(
                reliability.expected_calibration_error_interval(said[even], truth[even], _SEED)
            ),
            "brier": _interval(reliability.squared_errors(said[even], truth[even])),
            "conformal": {
                "films": len(p_values),
                "largest_gap_to_uniform": distance,
                "chance_if_uniform": chance,
                "share_at_most_0.05": float((p_values <= 0.05).mean()),
            },
        }

    def _oracle(self, adult: Sequence[Seen]) -> Json:
        """Lesions of an unseen family on normals: the map, and the counterpart beside the truth."""
        rng = np.random.default_rng(_SEED)
        normals = _donors(adult)
        precision, before, after = [], [], []
        for index, pair in enumerate(self._track(normals, "oracle")):
            share = _ORACLE_SHARES[index % len(_ORACLE_SHARES)]
            known = absorption.lesion(rng, pair.film, pair.lungs, share)
            made = as_pair(self._maker.evidence(known.film))
            precision.append(localisation.average_precision(known.mask, made.attribution_map))
            before.append(fidelity.psnr_db(known.normal, known.film))
            after.append(fidelity.psnr_db(known.normal, made.counterfactual))
        return {
            "films": len(normals),
            "auprc": _interval(precision),
            "psnr_of_pasted_db": _interval(before),
            "psnr_of_counterpart_db": _interval(after),
            "gain_db": _interval(np.array(after) - np.array(before)),
        }

    def _induction(self, adult: Sequence[Seen]) -> Json:
        """Does an opacity fall where it was asked for, does a judge see it, is the rest kept?"""
        if not self._model.denoiser.paired:
            return {}
        zones = list(prompts.load().zones)
        chosen = _donors(adult)[: len(zones) * 8]
        found: dict[str, list[tuple[float, float, float]]] = {"prompt alone": [], "with a mask": []}
        for index, pair in enumerate(self._track(chosen, "induction")):
            zone = zones[index % len(zones)]
            where = lesions.zone_mask(zone, pair.lungs)
            for name, mask in (("prompt alone", None), ("with a mask", where.astype(np.float32))):
                found[name].append(self._induced(pair, zone, where, mask))
        return {
            "films": len(chosen),
            "chance": 1 / len(zones),
            **{
                name: {
                    "change_in_zone": _interval([row[0] for row in rows]),
                    "zone_right": _share([row[0] > 0.5 for row in rows]),
                    "logit_rise": _interval([row[1] for row in rows]),
                    "ssim_elsewhere": _interval([row[2] for row in rows]),
                }
                for name, rows in found.items()
            },
        }

    def _induced(
        self, pair: Pair, zone: str, where: Mask, mask: Image | None
    ) -> tuple[float, float, float]:
        """(share of the brightening in the lungs that lies in the zone, rise of logit, SSIM)."""
        made = induction.induce(self._model, pair.film, f"{zone} opacity", _SEED, mask)
        brighter = np.where(pair.lungs, made.change.clip(0), 0)
        film = (pair.film + made.change).clip(0, 1)
        return (
            float(brighter[where].sum() / max(float(brighter.sum()), 1e-9)),
            self._logit(film) - self._logit(pair.film),
            fidelity.ssim_where(pair.film, film, ~where),
        )

    def _outside_lesion(self, case: Case) -> float:
        """SSIM of the decoded counterpart to the reconstruction, outside what readers marked."""
        own = self._round_trip(case.evidence.plane)
        made = (own - case.evidence.changes.mean(0, dtype=np.float32)).clip(0, 1)
        before, after = (localisation.to_side(plane, SIDE) for plane in (own, made))
        return fidelity.ssim_where(before, after, ~case.truth)

    @torch.inference_mode()
    def _logit(self, film: Image) -> float:
        return float(self._judges.classifier(validity.signed(film)))

    @torch.inference_mode()
    def _round_trip(self, film: Image) -> Image:
        x = validity.signed(film).to(self._model.device)
        y = self._model.autoencoder.decode(self._model.autoencoder.encode(x))[0, 0]
        back: Image = (y / 2 + 0.5).clamp(0, 1).cpu().numpy()
        return back


def _donors(films: Sequence[Seen]) -> list[Pair]:
    """Normal films whose lungs were found."""
    return [film.pair for film in films if film.normal and anatomy.usable(film.pair.lungs)]


def _contrast(plane: Image, truth: Mask) -> float:
    """Mean inside minus mean of a ring around."""
    ring = ndimage.binary_dilation(truth, iterations=_RING_PX) & ~truth
    return float(plane[truth].mean() - plane[ring].mean())


def _interval(values: Iterable[float]) -> Json:
    known = np.array([v for v in values if np.isfinite(v)], float)
    return asdict(statistics.bootstrap(known, _SEED)) if len(known) else {}


def _share(hits: Sequence[bool]) -> Json:
    if not hits:
        return {"films": 0}
    return {"films": len(hits), **asdict(statistics.share(sum(hits), len(hits)))}


def _auroc(films: Sequence[tuple[bool, float]]) -> Json:
    sick = np.array([score for normal, score in films if not normal])
    well = np.array([score for normal, score in films if normal])
    if min(len(sick), len(well)) < _LEAST_FILMS:
        return {}
    return asdict(statistics.auroc_interval(sick, well, _SEED))


def _counts(normal: Sequence[bool]) -> tuple[int, int]:
    return sum(normal), len(normal) - sum(normal)
