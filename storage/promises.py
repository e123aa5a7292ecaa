"""What a job is to bring where: kinds of results by destination, and what is added to that."""

from collections.abc import Mapping, Sequence

from storage.jobs import RECALLED, Job, NewJob
from storage.states import DeliveryState, JobState

NOTE = "not_analysed"
PURGED = "its kept file was purged: it is made again first"
LOST = "the kept file is gone or damaged; `vald-node retry` makes it again"
MADE_AGAIN = "the kept file was made again while it was to be sent"
WAITS_FOR_FILE = (PURGED, LOST)
"""Why a delivery is REFUSED until its result is made again, and is DUE then."""

Kinds = Mapping[str, tuple[str, ...]]
"""Kinds of results by destination."""


def of(job: NewJob) -> dict[str, tuple[str, ...]]:
    """What the job is to bring; in a row of an older program each destination gets all of it."""
    return dict(job.promised) or dict.fromkeys(job.destinations, job.results)


def kept_of(known: Job) -> dict[str, tuple[str, ...]]:
    """What is promised still when a film comes to this job.

    One that was REJECTED owes nothing any more: its film was not to be analysed. One that FAILED
    does, to whomever another film's rule had promised it.
    """
    match known.state:
        case JobState.REJECTED:
            return {}
        case JobState.FAILED:
            return dict(known.promised)
    return of(known)


def beyond(had: Kinds, wanted: Kinds) -> dict[str, tuple[str, ...]]:
    """What of `wanted` is not in `had`; no destination without a kind."""
    more = {
        name: tuple(kind for kind in kinds if kind not in had.get(name, ()))
        for name, kinds in wanted.items()
    }
    return {name: kinds for name, kinds in more.items() if kinds}


def without_notes(kinds: Kinds) -> dict[str, tuple[str, ...]]:
    """Results alone: a note of a rejected job says what may not hold of the next film."""
    return beyond(dict.fromkeys(kinds, (NOTE,)), kinds)


def joined(had: Kinds, more: Kinds) -> dict[str, tuple[str, ...]]:
    """Both, where nothing of `more` is in `had`."""
    return {name: (*had.get(name, ()), *more.get(name, ())) for name in {**had, **more}}


def in_all(had: Kinds, job: NewJob) -> Kinds:
    """What a job is to bring that had promised `had`, once this one has come to it."""
    return joined(had, beyond(had, of(job))) if had else job.promised


def kinds_new_to(had: Kinds, more: Kinds) -> set[str]:
    """Kinds of `more` that were promised to nobody, and so were never tried."""
    return {kind for kinds in more.values() for kind in kinds} - {
        kind for kinds in had.values() for kind in kinds
    }


def first_step(*, recalled: bool, purged: bool, faults: Sequence[str]) -> tuple[DeliveryState, str]:
    """The state of a result on its way to one more destination, and why it is no better.

    `faults` are why it is QUARANTINED elsewhere. Of what was purged, `produce` makes more.
    """
    if recalled:
        return DeliveryState.REFUSED, RECALLED
    if faults:
        return DeliveryState.QUARANTINED, faults[0]
    if purged:
        return DeliveryState.REFUSED, PURGED
    return DeliveryState.DUE, ""
