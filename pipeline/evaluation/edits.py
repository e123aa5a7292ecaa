"""What is measured of the edits themselves: counterparts, and lesions that are known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from typing import Any, TypeVar

import numpy as np

from pipeline import prompts
from pipeline.classifier import Classifier
from pipeline.evaluation import fidelity, localisation, sets, tables, validity
from pipeline.evaluation.cases import SIDE, Case, CaseMaker, Judges, Track, as_pair
from pipeline.evaluation.seen import Seen, donors
from pipeline.evaluation.tables import SEED, Json, interval
from pipeline.evaluation.validity import Pair
from pipeline.training import absorption
from pipeline.types import Target

_Film = TypeVar("_Film", bound=Case | Seen)
Groups = Mapping[str, Sequence[Case | Seen]]
_FLIPS = (
    "films", "flipped", "by_chance", "gain", "in_lungs_by_chance", "by_mirror", "gain_over_mirror",
    "in_lungs_by_mirror", "ceiling", "minus_ceiling",
)  # fmt: skip
_SHOWN = "opacity"  # what a null edit asks for: every lesion that was marked is one
_ORACLE_SHARES = (0.05, 0.1, 0.2)  # of the lungs


class Edits:
    """Measures what one model's edits do to films, as two classifiers see it."""

    def __init__(self, judges: Judges, maker: CaseMaker, track: Track[Any]) -> None:
        self._judges, self._maker, self._track = judges, maker, track

    def validity(self, adult: Sequence[Seen], cases: dict[str, list[Case]]) -> Json:
        """What the independent classifier says of films with a finding, by source."""
        groups: dict[str, list[Case | Seen]] = {name: [*group] for name, group in cases.items()}
        for film in adult:
            if not film.normal:
                groups.setdefault(film.row.source, []).append(film)
        groups["all"] = _once([film for films in groups.values() for film in films])
        normals = donors(adult)
        kept = [self._kept_by_lesion(case) for group in cases.values() for case in group]
        patients = [case.row.whose for group in cases.values() for case in group]
        shown = _once([case for group in cases.values() for case in group])
        witness = self._judges.witness
        return {
            "groups": _judged(self._judges.classifier, groups, normals),
            "ssim_outside_lesion": interval([outside for outside, _ in kept], patients),
            "ssim_inside_lesion": interval([inside for _, inside in kept], patients),
            **_shown_by_lesion(shown),
            **({} if witness is None else {"witness": _witnessed(witness, groups, normals)}),
            "judges_auroc": self._judges_auroc(adult),
            **self._null_edit(shown),
        }

    def _null_edit(self, cases: Sequence[Case]) -> Json:
        """How far the gate opens to marked films: towards normal, and towards what they show."""
        own = Target(prompt=prompts.load().labelled_prompt(_SHOWN))
        return {
            "gate_opened_towards_normal": self._opened(cases, None),
            "gate_opened_by_the_null_edit": self._opened(cases, own),
        }

    def _opened(self, cases: Sequence[Case], target: Target | None) -> Json:
        films = self._track(cases, "how far the gate opens")
        opened = [self._maker.opening(case.evidence.plane, target) for case in films]
        told = [math.nan if share is None else share for share in opened]
        return interval(told, [case.row.whose for case in cases])

    def _judges_auroc(self, adult: Sequence[Seen]) -> Json:
        """How well each judge tells sick films from normal ones: all, and by source of both."""
        judges = {"classifier": self._judges.classifier, "witness": self._judges.witness}
        said = {
            name: [validity.logit(judge, film.pair.film) for film in adult]
            for name, judge in judges.items()
            if judge is not None
        }
        by_source = {
            source: _aurocs(adult, said, [film.row.source == source for film in adult])
            for source in sorted({film.row.source for film in adult})
        }
        return {
            **_aurocs(adult, said, [True] * len(adult)),
            "sources": {source: found for source, found in by_source.items() if found},
        }

    def likeness(self, seen: Sequence[Seen]) -> Json:
        """Are normal counterparts of sick films like real normal ones, within a source?"""
        encoder = self._judges.encoder
        found: Json = {}
        for source in sorted({film.row.source for film in seen}):
            films = [film for film in seen if film.row.source == source]
            normal = [film.pair.film for film in films if film.normal]
            sick = [film.pair for film in films if not film.normal]
            made = [p.counterfactual for p in sick]
            lungs = validity.with_lungs_of(sick, donors(films), SEED)
            films_of_sick = [p.film for p in sick]
            standing = sets.standing(encoder, normal, films_of_sick, made, SEED)
            best = sets.distance(encoder, normal, lungs, SEED)
            if standing:
                found[source] = {
                    "normal": standing.normal,
                    "abnormal": standing.abnormal,
                    "floor": asdict(standing.floor),
                    "sick_films": asdict(standing.ceiling),
                    "counterparts": asdict(standing.counterparts),
                    "kid_share_of_the_way": asdict(standing.share),
                    "the_same_with_lungs_of_normal_films": best
                    and sets.share_of_the_way(
                        best.kid.mean, standing.floor.kid.mean, standing.ceiling.kid.mean
                    ),
                }
        return found

    def oracle(self, adult: Sequence[Seen]) -> Json:
        """Lesions of an unseen family on normals: the map, and the counterpart beside the truth."""
        rng = np.random.default_rng(SEED)
        normals = donors(adult)
        precision, before, after = [], [], []
        for index, pair in enumerate(self._track(normals, "oracle")):
            share = _ORACLE_SHARES[index % len(_ORACLE_SHARES)]
            known = absorption.lesion(rng, pair.film, pair.lungs, share)
            evidence = self._maker.evidence(known.film)
            plane, made = self._maker.attribution_map(evidence), as_pair(evidence)
            precision.append(localisation.average_precision(known.mask, plane))
            before.append(fidelity.psnr_db(known.normal, known.film))
            after.append(fidelity.psnr_db(known.normal, made.counterfactual))
        return {
            "films": len(normals),
            "auprc": interval(precision),
            "psnr_of_pasted_db": interval(before),
            "psnr_of_counterpart_db": interval(after),
            "gain_db": interval(np.array(after) - np.array(before)),
        }

    def _kept_by_lesion(self, case: Case) -> tuple[float, float]:
        """SSIM of the decoded counterpart to the reconstruction: outside a lesion, and inside."""
        own = self._maker.reconstruction(case.evidence.plane)
        made = (own - case.evidence.changes.mean(0, dtype=np.float32)).clip(0, 1)
        before, after = (localisation.to_side(plane, SIDE) for plane in (own, made))
        outside, inside = (
            fidelity.ssim_where(before, after, where) for where in (~case.truth, case.truth)
        )
        return outside, inside


def _aurocs(films: Sequence[Seen], said: Mapping[str, list[float]], these: Sequence[bool]) -> Json:
    """Of `these` films alone; nothing where they are not of both classes."""
    own = list(compress(films, these))
    scores = {name: list(compress(logits, these)) for name, logits in said.items()}
    return tables.aurocs([f.normal for f in own], scores, [f.row.whose for f in own])


def _judged(judge: Classifier, groups: Groups, normals: Sequence[Pair]) -> Json:
    """What a classifier makes of each group of films."""
    judged = {
        name: validity.judge(
            judge,
            [f.pair for f in films],
            normals,
            SEED,
            [f.row.whose for f in films],
            [f.row.source for f in films],
        )
        for name, films in groups.items()
    }
    return {name: asdict(found) for name, found in judged.items() if found}


def _witnessed(witness: Classifier, groups: Groups, normals: Sequence[Pair]) -> Json:
    """The flips alone, by a classifier that was asked when all was done."""
    return {
        name: {what: found[what] for what in _FLIPS}
        for name, found in _judged(witness, groups, normals).items()
    }


def _shown_by_lesion(cases: Sequence[Case]) -> Json:
    """SSIM of each film to its counterpart, as a reader sees both, in and around what is marked.

    Of every film that has a mark, whatever a judge calls it; on the model grid.
    """
    groups = [case.row.whose for case in cases]
    return {
        f"ssim_input_{name}_lesion": interval(
            [
                fidelity.ssim_where(c.pair.film, c.pair.counterfactual, c.marked ^ out)
                for c in cases
            ],
            groups,
        )
        for name, out in (("outside", True), ("inside", False))
    }


def _once(films: Sequence[_Film]) -> list[_Film]:
    """Each film once, the first of its copies, by the digest of its original where that is told."""
    found: dict[str, _Film] = {}
    for number, film in enumerate(films):
        found.setdefault(film.row.original or str(number), film)
    return list(found.values())
