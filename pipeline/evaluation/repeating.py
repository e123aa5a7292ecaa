"""How much of an answer is the seed's: the same films explained again, from other noise."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.evaluation import tables
from pipeline.evaluation.cases import Track
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.tables import Json, interval
from pipeline.types import Attribution, Image

SEEDS = range(5)
_FILMS = 20  # of normal ones, and of sick ones

Explain = Callable[[Image, int], Attribution]
"""Explains a film on the grid from a seed, as the product does."""


class Repeating:
    """Explains some films from each of SEEDS, and looks what is not the same."""

    def __init__(self, explain: Explain, track: Track[Any]) -> None:
        self._explain, self._track = explain, track

    def everything(self, adult: Sequence[Seen]) -> Json:
        """Of normal films and of sick ones; nothing of a class of which there are none."""
        classes = {"normal films": True, "sick films": False}
        chosen = [
            (name, film)
            for name, normal in classes.items()
            for film in _spread([film for film in adult if film.normal is normal])
        ]
        made = [
            (name, film, [self._explain(film.pair.film, seed) for seed in SEEDS])
            for name, film in self._track(chosen, "other seeds")
        ]
        return {
            "seeds": len(SEEDS),
            **{
                name: _summed_up([(film, answers) for _, film, answers in these])
                for name, these in groupby(made, key=lambda one: one[0])
            },
        }


def _spread(films: Sequence[Seen]) -> Sequence[Seen]:
    """So many of all, not the first ones: these are of one source."""
    most = min(_FILMS, len(films))
    return [films[n * len(films) // most] for n in range(most)]


def _summed_up(made: Sequence[tuple[Seen, list[Attribution]]]) -> Json:
    groups = [film.row.group for film, _ in made]
    said = [[one.uncertainty for one in answers] for _, answers in made]
    scores = [[one.score for one in answers] for _, answers in made]
    marked = [{bool(one.regions) for one in answers} for _, answers in made]
    called = [{one.status for one in answers} for _, answers in made]
    return {
        "score_sd": interval(np.std(scores, axis=1, ddof=1).tolist(), groups),
        "uncertainty_said": interval(np.mean(said, axis=1).tolist(), groups),
        "a_region_with_some_seeds_only": tables.share([len(one) > 1 for one in marked], groups),
        "another_status_with_some_seeds": tables.share([len(one) > 1 for one in called], groups),
    }
