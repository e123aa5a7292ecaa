"""Shares of films: of those that may be relied on, and of those that something is found on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import numpy as np

from pipeline.checks import Findings
from pipeline.evaluation import tables
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.statistics import Groups, Values
from pipeline.evaluation.tables import Json, interval
from pipeline.gates import ImageGate
from pipeline.types import Image, Status

_LEAST_FILMS = 10  # below this what maps of one status find says nothing of it

_TURNS: dict[str, tuple[bool, Callable[[Image], Image]]] = {
    "let_pass": (False, lambda film: film),
    "refused_turned_by_180": (True, lambda film: np.rot90(film, 2)),
    "refused_turned_by_90": (True, np.rot90),
    "refused_inverted": (True, lambda film: 1 - film),
}
"""What is asked of the image gate: whether it refuses the film, made into this, and should."""


def of(films: Sequence[tuple[bool, str]]) -> Json:
    """Of (whether it is so, group)."""
    return tables.share([so for so, _ in films], [group for _, group in films])


def with_a_region(marked: Mapping[str, Sequence[tuple[bool, str]]]) -> Json:
    """Of normal films by source: all, all but JSRT's, whose outlines taught the segmenter, each."""
    return {
        "with_a_region": of([one for found in marked.values() for one in found]),
        "without_jsrt": of([o for name, found in marked.items() if name != "jsrt" for o in found]),
        "sources": {source: of(found) for source, found in sorted(marked.items())},
    }


def gated(gate: ImageGate, films: Sequence[tuple[Image, str]]) -> Json:
    """Of (upright chest film, group): let pass, and refused once turned or inverted."""
    return {
        name: of([(bool(gate.refusal(change(film))) == refused, group) for film, group in films])
        for name, (refused, change) in _TURNS.items()
    }


def statuses(films: Sequence[Seen]) -> Json:
    """What share of films is VALID, LOW_CONFIDENCE or WITHHELD by the checks of the edit."""
    names = [str(status) for status in Status]
    return _of_both(films, names, lambda film, name: str(film.status) == name)


def doubted(films: Sequence[Seen]) -> Json:
    """What share of films each check doubts; one film may be doubted by several."""
    names = [known.name for known in fields(Findings)]
    return _of_both(films, names, lambda film, name: name in film.doubts)


def by_status(
    each: Sequence[Status], precisions: Values, touched: Sequence[bool], groups: Groups
) -> Json:
    """What maps find on films of one status, where there are enough of them: AUPRC, and touches."""
    found: Json = {}
    for status in Status:
        films = [number for number, other in enumerate(each) if other is status]
        if len(films) >= _LEAST_FILMS:
            theirs = [groups[number] for number in films]
            found[str(status)] = {
                "films": len(films),
                "auprc": interval(precisions[films], theirs),
                "region_touches_a_box": tables.share([touched[number] for number in films], theirs),
            }
    return found


def _of_both(
    films: Sequence[Seen], names: Sequence[str], holds: Callable[[Seen, str], bool]
) -> Json:
    """Of normal and of abnormal films, where there are any, the share for which each name holds."""
    return {
        what: {name: of([(holds(film, name), film.row.whose) for film in own]) for name in names}
        for what in ("normal", "abnormal")
        if (own := [film for film in films if film.normal == (what == "normal")])
    }
