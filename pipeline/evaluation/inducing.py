"""Does a finding that is asked for come where it is asked for, and do the judges see it?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from pipeline import induction, prompts
from pipeline.anatomy import Mask
from pipeline.classifier import Classifier
from pipeline.evaluation import fidelity, tables, validity
from pipeline.evaluation.cases import Judges, Track
from pipeline.evaluation.seen import Seen, donors
from pipeline.evaluation.tables import SEED, Json, interval
from pipeline.evaluation.validity import Pair
from pipeline.training import lesions
from pipeline.types import Image
from pipeline.weights import LoadedModel

_FILMS_EACH = 2  # of every zone and finding
_WAYS = ("prompt alone", "with a mask")

Said = tuple[float, float, float]
"""A judge's logit of a film, of what was induced in it, and of the same change elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One finding induced in one film.

    `by_zone` are the shares of all |change| on the film that lie in each of the lungs' six zones;
    `brighter` is the share of the brightening in the lungs that lies in the zone asked for;
    `ssim` is the similarity to the film outside that zone.
    """

    finding: str
    asked: int
    by_zone: tuple[float, ...]
    brighter: float
    ssim: float
    said: Mapping[str, Said]


class Inducing:
    """Asks one model for every finding in every zone of normal films."""

    def __init__(self, model: LoadedModel, judges: Judges, track: Track[Any]) -> None:
        self._model, self._track = model, track
        self._judges: dict[str, Classifier] = {"classifier": judges.classifier}
        if judges.witness is not None:
            self._judges["witness"] = judges.witness

    def everything(self, adult: Sequence[Seen]) -> Json:
        """By the prompt alone and with the zone as a mask; nothing of a model that cannot."""
        if not self._model.denoiser.paired:
            return {}
        words, rng = prompts.load(), np.random.default_rng(SEED)
        asked = list(product(range(len(prompts.ZONES)), words.findings))
        normals = [pair for pair in donors(adult) if not self._refused(pair)]
        most = _FILMS_EACH * len(asked)
        chosen = normals[:: max(1, len(normals) // most)][:most]
        trials: dict[str, list[Trial]] = {way: [] for way in _WAYS}
        for index, pair in enumerate(self._track(chosen, "induction")):
            zone, finding = asked[index % len(asked)]
            for way in _WAYS:
                trials[way].append(self._trial(pair, zone, finding, way == _WAYS[1], rng))
        return {
            "films": len(chosen),
            "chance": 1 / len(prompts.ZONES),
            **{way: _summed_up(made) for way, made in trials.items() if made},
        }

    def _refused(self, pair: Pair) -> bool:
        """Whether the image gate does, as it does a few chests: nothing can be induced there."""
        gate = self._model.image_gate
        return gate is not None and bool(gate.refusal(pair.film))

    def _trial(
        self, pair: Pair, zone: int, finding: str, masked: bool, rng: np.random.Generator
    ) -> Trial:
        zones = [lesions.zone_mask(name, pair.lungs) for name in prompts.ZONES]
        mask = zones[zone].astype(np.float32) if masked else None
        asked = f"{prompts.ZONES[zone]} {finding}"
        change = induction.induce(self._model, pair.film, asked, SEED, mask).change
        film = np.asarray((pair.film + change).clip(0, 1), np.float32)
        away = validity.elsewhere(rng, pair.film, pair.film - film)
        brighter = np.where(pair.lungs, change.clip(0), 0)
        return Trial(
            finding=finding,
            asked=zone,
            by_zone=tuple(_share(np.abs(change), where) for where in zones),
            brighter=_share(brighter, zones[zone]),
            ssim=fidelity.ssim_where(pair.film, film, ~zones[zone]),
            said={
                name: (
                    validity.logit(judge, pair.film),
                    validity.logit(judge, film),
                    validity.logit(judge, away),
                )
                for name, judge in self._judges.items()
            },
        )


def _summed_up(trials: Sequence[Trial]) -> Json:
    return {
        "change_in_zone": interval([trial.by_zone[trial.asked] for trial in trials]),
        "brightening_in_zone": interval([trial.brighter for trial in trials]),
        "zone_right": tables.share([_right(trial) for trial in trials]),
        "zone_right_by_finding": {
            finding: tables.share([_right(t) for t in trials if t.finding == finding])
            for finding in sorted({trial.finding for trial in trials})
        },
        "ssim_elsewhere": interval([trial.ssim for trial in trials]),
        **{name: _seen([trial.said[name] for trial in trials]) for name in trials[0].said},
    }


def _right(trial: Trial) -> bool:
    """Whether there is change in the zone that was asked for, and no other zone has more of it."""
    return int(np.argmax(trial.by_zone)) == trial.asked and trial.by_zone[trial.asked] > 0


def _seen(said: Sequence[Said]) -> Json:
    """Of films that a judge calls normal, how many it calls abnormal once something is induced."""
    before, after, away = np.array(said).T
    normal = before <= 0
    return {
        "logit_rise": interval(after - before),
        "called_abnormal": tables.share((after[normal] > 0).tolist()),
        "the_same_change_elsewhere": tables.share((away[normal] > 0).tolist()),
    }


def _share(plane: Image, where: Mask) -> float:
    return float(plane[where].sum() / max(float(plane.sum()), 1e-9))
