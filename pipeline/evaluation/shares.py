"""Shares of films: of those that may be relied on, and of those that something is found on."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from pipeline.checks import Findings
from pipeline.evaluation import tables
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.statistics import Groups, Values
from pipeline.evaluation.tables import Json, interval
from pipeline.types import Status

_LEAST_FILMS = 10  # below this what maps of one status find says nothing of it


def of(films: Sequence[tuple[bool, str]]) -> Json:
    """Of (whether it is so, group)."""
    return tables.share([so for so, _ in films], [group for _, group in films])


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
        what: {name: of([(holds(film, name), film.row.group) for film in own]) for name in names}
        for what in ("normal", "abnormal")
        if (own := [film for film in films if film.normal == (what == "normal")])
    }
