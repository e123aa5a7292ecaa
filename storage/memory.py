"""The job store's contract in memory: for tests, and for whoever needs no durability."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from storage.errors import LeaseLostError, TransitionError, UnknownKeyError
from storage.jobs import (
    Decision,
    Delivery,
    Job,
    Lease,
    NewJob,
    NewReceived,
    Parcel,
    Received,
    Result,
)
from storage.states import DeliveryState, JobState, check_delivery, check_job
from storage.store import NO_CHOICE, takers_of
from storage.words import legible

_F = TypeVar("_F", bound=Callable[..., Any])
_RETRIED = {DeliveryState.REFUSED, DeliveryState.QUARANTINED}
_Name = tuple[str, str]


def _locked(method: _F) -> _F:
    def call(self: "MemoryJobStore", *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    call.__doc__ = method.__doc__
    return call  # type: ignore[return-value]  # the same signature


class MemoryJobStore:
    """Rows in dictionaries under one lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._received: dict[int, Received] = {}
        self._jobs: dict[str, Job] = {}
        self._tokens: dict[str, int] = {}
        self._results: dict[str, Result] = {}
        self._deliveries: dict[_Name, Delivery] = {}
        self._sending: dict[_Name, tuple[str, datetime]] = {}

    @_locked
    def receive(self, new: NewReceived) -> Received:
        """See JobStore."""
        for known in self._received.values():
            if (known.sop_instance_uid, known.object.digest) == (
                new.sop_instance_uid,
                new.object.digest,
            ):
                return known
        number = len(self._received) + 1
        self._received[number] = Received(**_fields(new), number=number, decision="", job_key="")
        return self._received[number]

    @_locked
    def unrouted(self, limit: int) -> list[Received]:
        """See JobStore."""
        return [film for film in self._received.values() if not film.decision][:limit]

    @_locked
    def received(self, limit: int, sop_instance_uid: str = "") -> list[Received]:
        """See JobStore."""
        newest = reversed(self._received.values())
        return [f for f in newest if sop_instance_uid in ("", f.sop_instance_uid)][:limit]

    @_locked
    def route(self, number: int, decision: Decision, job: NewJob | None) -> None:
        """See JobStore."""
        if number not in self._received:
            raise UnknownKeyError(f"no received instance {number}")
        if job is not None and job.key not in self._jobs:
            self._jobs[job.key] = _stored(job)
            self._tokens[job.key] = 0
        self._received[number] = replace(
            self._received[number], decision=legible(decision.text), job_key=decision.job_key
        )

    @_locked
    def job(self, key: str) -> Job:
        """See JobStore."""
        if key in self._jobs:
            return self._jobs[key]
        found = [job for job in self._jobs.values() if key and job.key.startswith(key)]
        if not found:
            raise UnknownKeyError(f"no job {key!r}")
        if len(found) > 1:
            raise UnknownKeyError(f"more than one job begins with {key!r}")
        return found[0]

    @_locked
    def jobs(
        self, limit: int, state: JobState | None = None, sop_instance_uid: str = ""
    ) -> list[Job]:
        """See JobStore."""
        chosen = [
            job
            for job in self._jobs.values()
            if state in (None, job.state) and sop_instance_uid in ("", job.sop_instance_uid)
        ]
        by_key = sorted(chosen, key=lambda job: job.key)
        return sorted(by_key, key=lambda job: job.created_at, reverse=True)[:limit]

    @_locked
    def claim(self, owner: str, now: datetime, lease_s: float) -> Job | None:
        """See JobStore."""
        waiting = [job for job in self._jobs.values() if job.state is JobState.RECEIVED]
        if not waiting:
            return None
        job = min(waiting, key=lambda job: (job.created_at, job.key))
        self._tokens[job.key] += 1
        lease = Lease(
            owner=owner, token=self._tokens[job.key], until=now + timedelta(seconds=lease_s)
        )
        return self._change(job, JobState.RUNNING, now, lease=lease, attempts=job.attempts + 1)

    @_locked
    def heartbeat(self, key: str, token: int, until: datetime) -> None:
        """See JobStore."""
        job, lease = self._held(key, token)
        self._jobs[key] = replace(job, lease=replace(lease, until=until))

    @_locked
    def produce(
        self,
        key: str,
        token: int,
        now: datetime,
        results: Sequence[Result],
        destinations: Sequence[str],
        kinds: Mapping[str, Collection[str]] = NO_CHOICE,
        quarantined: Mapping[str, str] = NO_CHOICE,
    ) -> None:
        """See JobStore."""
        if any(result.sop_instance_uid in self._results for result in results):
            raise ValueError("results.sop_instance_uid: another job has it")
        self._leave(key, token, JobState.PRODUCED, now, "")
        for result in results:
            takers = takers_of(result, destinations, kinds)
            self._add_result(result, takers, now, quarantined.get(result.kind, ""))

    @_locked
    def reject(
        self,
        key: str,
        token: int,
        now: datetime,
        reason: str,
        notes: Sequence[Result] = (),
        destinations: Sequence[str] = (),
    ) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.REJECTED, now, reason)
        for note in notes:
            self._add_result(note, destinations, now)

    def _add_result(
        self, result: Result, destinations: Sequence[str], now: datetime, quarantined: str = ""
    ) -> None:
        self._results[result.sop_instance_uid] = result
        for destination in destinations:
            self._deliveries[result.sop_instance_uid, destination] = Delivery(
                job_key=result.job_key,
                sop_instance_uid=result.sop_instance_uid,
                destination=destination,
                state=DeliveryState.QUARANTINED if quarantined else DeliveryState.DUE,
                attempts=0,
                next_attempt_at=now,
                reason=legible(quarantined),
            )

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.FAILED, now, reason)

    def release(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.RECEIVED, now, reason)

    @_locked
    def reclaim(self, now: datetime, max_attempts: int) -> list[str]:
        """See JobStore."""
        lapsed = [job for job in self._jobs.values() if job.lease and job.lease.until < now]
        for job in lapsed:
            spent = job.attempts >= max_attempts
            reason = f"its worker died {job.attempts} times" if spent else "its worker was lost"
            state = JobState.FAILED if spent else JobState.RECEIVED
            self._change(job, state, now, error=reason)
        for name, (_, until) in [*self._sending.items()]:
            if until < now:
                self._finish(name, DeliveryState.DUE, now, "its sender was lost")
        return sorted(job.key for job in lapsed)

    @_locked
    def abandon(self, owners: str, now: datetime) -> None:
        """See JobStore."""
        for job in [*self._jobs.values()]:
            if job.lease and job.lease.owner.startswith(owners):
                self._change(job, JobState.RECEIVED, now, error="its worker was stopped")
        for name, (owner, _) in [*self._sending.items()]:
            if owner.startswith(owners):
                self._finish(name, DeliveryState.DUE, now, "its sender was lost")

    @_locked
    def retry(self, key: str, now: datetime) -> Job:
        """See JobStore."""
        job = self.job(key)
        if job.state is JobState.FAILED:
            return self._change(job, JobState.RECEIVED, now, attempts=0)
        failed = [
            name
            for name, delivery in self._deliveries.items()
            if delivery.job_key == job.key and delivery.state in _RETRIED
        ]
        if not failed:
            raise TransitionError(f"job {key[:12]} is {job.state}: nothing of it has failed")
        for name in failed:
            self._finish(name, DeliveryState.DUE, now, "")
        return job

    @_locked
    def retract(
        self, note: Result, destinations: Sequence[str], now: datetime, reason: str
    ) -> bool:
        """See JobStore."""
        if note.sop_instance_uid in self._results:
            return False
        for name, delivery in [*self._deliveries.items()]:
            if delivery.job_key == note.job_key and delivery.state is DeliveryState.DUE:
                self._finish(name, DeliveryState.REFUSED, now, reason)
        self._add_result(note, destinations, now)
        return True

    @_locked
    def results(self, key: str) -> list[Result]:
        """See JobStore."""
        return [result for result in self._results.values() if result.job_key == key]

    @_locked
    def deliveries(self, key: str) -> list[Delivery]:
        """See JobStore."""
        return [delivery for delivery in self._deliveries.values() if delivery.job_key == key]

    @_locked
    def claim_deliveries(
        self,
        destination: str,
        owner: str,
        now: datetime,
        lease_s: float,
        limit: int,
    ) -> list[Parcel]:
        """See JobStore."""
        due = [
            (name, delivery)
            for name, delivery in self._deliveries.items()
            if delivery.state is DeliveryState.DUE
            and delivery.destination == destination
            and delivery.next_attempt_at <= now
        ]
        due.sort(key=lambda item: (item[1].next_attempt_at, item[1].job_key))
        return [self._start_sending(name, owner, now, lease_s) for name, _ in due[:limit]]

    def delivered(self, parcel: Parcel, now: datetime, note: str) -> None:
        """See JobStore."""
        self._leave_sending(parcel, DeliveryState.DELIVERED, now, note)

    def postpone(self, parcel: Parcel, next_attempt_at: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave_sending(parcel, DeliveryState.DUE, next_attempt_at, reason)

    def refuse(self, parcel: Parcel, now: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave_sending(parcel, DeliveryState.REFUSED, now, reason)

    def close(self) -> None:
        """See JobStore."""

    def _held(self, key: str, token: int) -> tuple[Job, Lease]:
        job = self._jobs.get(key)
        if job is None or job.lease is None or job.lease.token != token:
            raise LeaseLostError(f"job {key[:12]} is no longer held under token {token}")
        return job, job.lease

    @_locked
    def _leave(self, key: str, token: int, state: JobState, now: datetime, reason: str) -> None:
        job, _ = self._held(key, token)
        self._change(job, state, now, error=reason)

    def _change(
        self,
        job: Job,
        state: JobState,
        now: datetime,
        *,
        error: str = "",
        lease: Lease | None = None,
        attempts: int | None = None,
    ) -> Job:
        check_job(job.state, state)
        tries = job.attempts if attempts is None else attempts
        self._jobs[job.key] = replace(
            job, state=state, error=legible(error), lease=lease, attempts=tries, updated_at=now
        )
        return self._jobs[job.key]

    def _start_sending(self, name: _Name, owner: str, now: datetime, lease_s: float) -> Parcel:
        delivery = self._deliveries[name]
        check_delivery(delivery.state, DeliveryState.SENDING)
        sending = replace(delivery, state=DeliveryState.SENDING, attempts=delivery.attempts + 1)
        self._deliveries[name] = sending
        self._sending[name] = (owner, now + timedelta(seconds=lease_s))
        return Parcel(delivery=sending, result=self._results[name[0]])

    @_locked
    def _leave_sending(
        self, parcel: Parcel, state: DeliveryState, at: datetime, reason: str
    ) -> None:
        name = (parcel.delivery.sop_instance_uid, parcel.delivery.destination)
        if self._deliveries.get(name) == parcel.delivery:
            self._finish(name, state, at, reason)

    def _finish(self, name: _Name, state: DeliveryState, at: datetime, reason: str) -> None:
        delivery = self._deliveries[name]
        check_delivery(delivery.state, state)
        self._sending.pop(name, None)
        self._deliveries[name] = replace(
            delivery, state=state, next_attempt_at=at, reason=legible(reason)
        )


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
