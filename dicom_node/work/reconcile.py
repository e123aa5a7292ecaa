"""Every film received, and where it stands up to committed: what is missing, and why."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

import structlog

from dicom_node.routing import router
from storage import promises
from storage.errors import ObjectMissingError, ObjectsUnavailableError, StorageError
from storage.jobs import EVERY, Delivery, Job, Received, is_owed
from storage.objects import ObjectStore
from storage.states import ARRIVED, LOST, OPEN, DeliveryState, JobState
from storage.store import JobStore

_log = structlog.get_logger()

LATE_S = 3600.0
"""A film that is not where it should be after so long is missing, not under way."""
_DAY = timedelta(days=1)
_MOST_MISSING = 100
_NOTICE = "reconciled"


class Standing(StrEnum):
    """How a film stands."""

    COMPLETE = "complete"
    """Its results are everywhere they were promised to be, committed where that was promised."""
    NOT_ANALYSED = "not analysed"
    """For a reason that is kept: a rule, a guard, the image."""
    UNDER_WAY = "under way"
    MISSING = "missing"
    """Somebody has to look: it says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmStanding:
    """One film, when it came last, and why it is not complete; `why` is empty where it is."""

    sop_instance_uid: str
    received_at: datetime
    calling_ae_title: str
    job_key: str
    standing: Standing
    why: str = ""


class Reconciler:
    """Compares what was received with what has arrived; changes nothing.

    `promising` are the destinations that are asked whether they have stored what they took, and
    `known` all that are configured: one that was removed owes what it was to commit. What was
    delivered where nothing was promised is at its end, whatever is promised there now.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        promising: frozenset[str],
        known: frozenset[str],
        late_s: float = LATE_S,
    ) -> None:
        self._store, self._objects = store, objects
        self._promising, self._known, self._late_s = promising, known, late_s

    def since(self, since: datetime, now: datetime) -> list[FilmStanding]:
        """Every film that came since then, newest first."""
        return [self._of(film, now) for film in self._store.received(EVERY, since=since)]

    def daily(self, since: datetime, now: datetime) -> list[FilmStanding]:
        """The same, and older ones that were not at their end then, or came to a bad one since."""
        recent = self._store.received(EVERY, since=since)
        older = [film for film in self._store.unsettled(since) if film.arrived_at < since]
        return [self._of(film, now) for film in (*recent, *older)]

    def _of(self, film: Received, now: datetime) -> FilmStanding:
        came, limit = self._arrived_at(film), timedelta(seconds=self._late_s)
        # A time that lies ahead says nothing of how old it is: the clock was set back since.
        late = abs(now - came) > limit
        waits = Standing.MISSING if late else Standing.UNDER_WAY
        standing, why = self._judged(film, waits)
        if standing in (Standing.COMPLETE, Standing.NOT_ANALYSED):
            standing, why = self._left_behind(film, waits) or (standing, why)
        if standing is Standing.MISSING and came - now > limit:
            why = f"{why}; it came at {came:%Y-%m-%d}, which lies ahead: the clock was set back"
        return FilmStanding(
            sop_instance_uid=film.sop_instance_uid,
            received_at=film.arrived_at,
            calling_ae_title=film.calling_ae_title,
            job_key=film.job_key,
            standing=standing,
            why=why,
        )

    def _arrived_at(self, film: Received) -> datetime:
        """When it came last, or any other whose results its job is to bring."""
        if not film.job_key:
            return film.arrived_at
        every = (film, *self._store.received(EVERY, film.sop_instance_uid))
        return max(other.arrived_at for other in every if other.job_key == film.job_key)

    def _judged(self, film: Received, waits: Standing) -> tuple[Standing, str]:
        if not film.decision:
            gone = self._gone(film)
            return (Standing.MISSING, gone) if gone else (waits, "no decision yet")
        if not film.job_key:
            lost = is_owed(film, partial(self._store.received, EVERY, film.sop_instance_uid))
            return Standing.MISSING if lost else Standing.NOT_ANALYSED, film.decision
        job = self._store.job(film.job_key)
        told, rest = self._deliveries(job)
        if film.decision.startswith(router.REFUSED) and (told or job.state is JobState.PRODUCED):
            # Its own end: the job, if it goes on, is of another sender's film.
            return self._refused(told, waits, film.decision)
        match job.state:
            case JobState.FAILED:
                return Standing.MISSING, job.error
            case JobState.PRODUCED if film.decision.startswith(router.OTHER_PIXELS):
                return Standing.NOT_ANALYSED, film.decision
            case JobState.PRODUCED:  # notes are of those that are refused
                standing, why = self._delivered(rest, waits)
                return (Standing.MISSING, job.error) if job.error else (standing, why)
            case JobState.REJECTED:
                return self._refused([*told, *rest], waits, job.error)
        gone = self._gone(film)
        return (Standing.MISSING, gone) if gone else (waits, _words(job))

    def _left_behind(self, film: Received, waits: Standing) -> tuple[Standing, str] | None:
        """How a job stands that the film has left for another, or for none, when it came again.

        It goes on, and what is made still goes out. What has FAILED or is lost of it is given up
        for the new decision.
        """
        known = {other.job_key for other in self._store.received(EVERY, film.sop_instance_uid)}
        for job in self._store.jobs(EVERY, sop_instance_uid=film.sop_instance_uid):
            mine = (job.object.digest, job.calling_ae_title) == (
                film.object.digest,
                film.calling_ae_title,
            )
            if job.key in known or not mine:
                continue
            going = [d for d in self._store.deliveries(job.key) if d.state not in LOST]
            standing, why = self._delivered(going, waits)
            if job.state in OPEN:
                standing, why = waits, _words(job)
            if standing is not Standing.COMPLETE:
                return standing, f"an earlier analysis of it: {why}"
        return None

    def _gone(self, film: Received) -> str:
        """Why its kept file cannot be had; one that is in trouble keeps no other unjudged."""
        try:
            self._objects.local_path(film.object)
        except ObjectsUnavailableError:
            raise
        except ObjectMissingError:
            return "the kept file is gone; send the film again"
        except StorageError as fault:
            return f"the kept file cannot be read now: {fault}"
        return ""

    def _deliveries(self, job: Job) -> tuple[list[Delivery], list[Delivery]]:
        """Those of notes that a film is not analysed, and the others."""
        notes = {
            r.sop_instance_uid for r in self._store.results(job.key) if r.kind == promises.NOTE
        }
        every = self._store.deliveries(job.key)
        told = [delivery for delivery in every if delivery.sop_instance_uid in notes]
        return told, [delivery for delivery in every if delivery.sop_instance_uid not in notes]

    def _refused(
        self, told: Sequence[Delivery], waits: Standing, reason: str
    ) -> tuple[Standing, str]:
        """Not analysed, once the note that says so has arrived, where one was made."""
        standing, why = self._delivered(told, waits)
        complete = standing is Standing.COMPLETE
        return (Standing.NOT_ANALYSED, reason) if complete else (standing, why)

    def _delivered(self, deliveries: Sequence[Delivery], waits: Standing) -> tuple[Standing, str]:
        lost = [d for d in deliveries if d.state in LOST]
        if lost:
            return Standing.MISSING, _where(lost)
        waiting = [d for d in deliveries if d.state not in ARRIVED]
        if waiting:
            return waits, _where(waiting)
        unproven = [d for d in deliveries if self._is_unproven(d)]
        return (waits, _where(unproven)) if unproven else (Standing.COMPLETE, "")

    def _is_unproven(self, delivery: Delivery) -> bool:
        place = delivery.destination
        owed = place in self._promising or place not in self._known
        return owed and delivery.promised and delivery.state is not DeliveryState.COMMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the last reconciliation found: how many films stand in each way, and what is missing.

    `missing` are the beginnings of job keys, of at most a hundred films; empty for a film without a
    job. It holds no reason, which a peer may have worded, and no UID: it is shown to whoever asks.
    """

    at: datetime
    counts: dict[str, int]
    missing: tuple[str, ...]


def log_daily(
    reconciler: Reconciler, store: JobStore, clock: Callable[[], datetime], span: timedelta = _DAY
) -> None:
    """One line in the log that counts films, and one for each that is missing; kept as an account.

    The films are those of the last day, or since the last time where that is longer ago; and all
    that were under way then, or were lost since, however old.
    """
    now, last = clock(), account(store)
    since = now - span if last is None else min(now - span, last.at)
    films = reconciler.daily(since, now)
    missing = [film for film in films if film.standing is Standing.MISSING]
    for film in missing:
        _log.error(
            "film is missing",
            sop_instance_uid=film.sop_instance_uid,
            job=film.job_key[:12],
            reason=film.why,
        )
    keys = [film.job_key[:12] for film in missing[:_MOST_MISSING]]
    store.post(_NOTICE, json.dumps({"counts": counts(films), "missing": keys}), now)
    _log.info("reconciled", **counts(films))


def account(store: JobStore) -> Account | None:
    """The last reconciliation that the node made of itself; None where there was none."""
    notice = store.notice(_NOTICE)
    if notice is None:
        return None
    said = json.loads(notice.text)
    return Account(at=notice.at, counts=said["counts"], missing=tuple(said["missing"]))


def is_late(store: JobStore, now: datetime) -> bool:
    """Whether the daily one was missed: the node was down, or its database away, at that time."""
    last = store.notice(_NOTICE)
    return last is None or abs(now - last.at) > _DAY + timedelta(seconds=LATE_S)


def counts(films: Sequence[FilmStanding]) -> dict[str, int]:
    """How many films stand in each way, by names fit for a log; all of them are there."""
    return {
        standing.value.replace(" ", "_"): sum(film.standing is standing for film in films)
        for standing in Standing
    }


def _words(job: Job) -> str:
    return f"job is {job.state}" + (f": {job.error}" if job.error else "")


def _where(deliveries: Sequence[Delivery]) -> str:
    """Destination, state and reason, each once."""
    said = {
        f"{d.destination}: {d.state}" + (f" ({d.reason})" if d.reason else "") for d in deliveries
    }
    return "; ".join(sorted(said))
