"""Films: received, decided about, and put to their jobs."""

from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from storage import promises
from storage.errors import UnknownKeyError
from storage.jobs import (
    Decision,
    Delivery,
    Job,
    NewJob,
    NewReceived,
    Received,
    arrival,
    came,
    come_again,
    not_held_back,
)
from storage.memory.production import Production
from storage.memory.tables import film_of, locked
from storage.states import LOST, OPEN, UNDONE, WAITING, DeliveryState, JobState, check_job
from storage.words import legible


class Films(Production):
    """Received instances and what was decided about them."""

    @locked
    def receive(self, new: NewReceived) -> Received:
        """See JobStore."""
        for known in self._received.values():
            if film_of(known) == film_of(new):
                self._purged_films.discard(known.number)
                undone = known.job_key and self._jobs[known.job_key].state in UNDONE
                job_key = "" if undone else known.job_key
                at = arrival(new.received_at, known.arrived_at)
                anew = replace(known, decision="", job_key=job_key, arrived_at=at)
                self._received[known.number] = anew
                return anew
        number = len(self._received) + 1
        self._received[number] = Received(
            **_fields(new), number=number, arrived_at=new.received_at, decision="", job_key=""
        )
        return self._received[number]

    @locked
    def unrouted(self, limit: int) -> list[Received]:
        """See JobStore."""
        waiting = [film for film in self._received.values() if not film.decision]
        return sorted(waiting, key=came)[:limit]

    @locked
    def received(
        self, limit: int, sop_instance_uid: str = "", since: datetime | None = None
    ) -> list[Received]:
        """See JobStore."""
        newest = reversed(self._received.values())
        return [
            film
            for film in newest
            if sop_instance_uid in ("", film.sop_instance_uid)
            and (since is None or film.arrived_at >= since)
        ][:limit]

    @locked
    def unsettled(self, since: datetime) -> list[Received]:
        """See JobStore."""
        jobs = {
            job.key
            for job in self._jobs.values()
            if job.state in OPEN or (job.state is JobState.FAILED and job.updated_at >= since)
        }
        unsettled = [d for d in self._deliveries.values() if _is_unsettled(d, since)]
        jobs |= {d.job_key for d in unsettled}
        going_out = {d.job_key for d in unsettled if d.state not in LOST}
        left = {
            (job.sop_instance_uid, job.object.digest, job.calling_ae_title)
            for job in self._jobs.values()
            if job.state in OPEN or job.key in going_out
        }
        return [
            film
            for film in reversed(self._received.values())
            if not film.decision
            or self._waits(film)
            or film.job_key in jobs
            or (film.sop_instance_uid, film.object.digest, film.calling_ae_title) in left
        ]

    @locked
    def owed(self) -> list[Received]:
        """See JobStore."""
        return list(filter(self._waits, self._received.values()))

    @locked
    def decide_again(self, now: datetime, among: AbstractSet[int] | None = None) -> int:
        """See JobStore."""
        owed = self.owed()
        overtaken = {film.number for film in owed if self._is_overtaken(film)}
        films = not_held_back(owed, overtaken, among)
        for film in come_again(films, now):
            self._received[film.number] = film
        return len(films)

    def _waits(self, film: Received) -> bool:
        """It is owed a decision, and for so long as films are kept."""
        return film.number not in self._purged_films and self._is_owed(film)

    def _is_overtaken(self, film: Received) -> bool:
        """Whether other bytes of its UID came later, by whomever, that are not owed a decision."""
        return any(
            other.sop_instance_uid == film.sop_instance_uid
            and other.object.digest != film.object.digest
            and came(other) > came(film)
            and not self._is_owed(other)
            for other in self._received.values()
        )

    @locked
    def waiting(self) -> int:
        """See JobStore."""
        unrouted = sum(not film.decision for film in self._received.values())
        return unrouted + sum(job.state in OPEN for job in self._jobs.values())

    @locked
    def route(
        self,
        number: int,
        decision: Decision,
        job: NewJob | None,
        arrived_at: datetime | None = None,
    ) -> bool:
        """See JobStore."""
        if number not in self._received:
            raise UnknownKeyError(f"no received instance {number}")
        film = self._received[number]
        if arrived_at is not None and (film.arrived_at != arrived_at or film.decision):
            return False
        if job is not None:
            self._submit(job)
        if decision.job_key in self._jobs and self._jobs[decision.job_key].state in UNDONE:
            return False
        self._received[number] = replace(
            film, decision=legible(decision.text), job_key=decision.job_key
        )
        if self._joins(film, decision.job_key):
            self._joined.add(number)
        else:
            self._joined.discard(number)
        return True

    def _joins(self, film: Received, key: str) -> bool:
        job = self._jobs.get(key)
        return job is None or job.state is JobState.RUNNING or film_of(job) != film_of(film)

    def _submit(self, job: NewJob) -> None:
        known = self._jobs.setdefault(job.key, _stored(job))
        self._tokens.setdefault(job.key, 0)
        had = promises.kept_of(known)
        more = promises.beyond(had, promises.of(job))
        if known.state in UNDONE:
            check_job(known.state, JobState.RECEIVED)
            made = any(result.kind != promises.NOTE for result in self.results(job.key))
            afresh, created_at = _stored(job), known.created_at if made else job.created_at
            self._jobs[job.key] = replace(afresh, created_at=created_at)
        if more or known.state in UNDONE:
            promised = promises.in_all(had, job)
            self._jobs[job.key] = replace(self._jobs[job.key], promised=promised)
        if known.state is JobState.REJECTED:
            more = promises.without_notes(more)
        self._bring(job.key, had, more, job.created_at)


def _is_unsettled(delivery: Delivery, since: datetime) -> bool:
    asked = delivery.state is DeliveryState.DELIVERED and delivery.promised
    lost = delivery.state in LOST and delivery.next_attempt_at >= since
    return delivery.state in WAITING | {DeliveryState.SENDING} or asked or lost


def _fields(value: object) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]


def _stored(job: NewJob) -> Job:
    return Job(
        **_fields(job),
        state=JobState.RECEIVED,
        attempts=0,
        error="",
        updated_at=job.created_at,
        lease=None,
    )
