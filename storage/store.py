"""The job store's contract: what holds when each method has returned.

Every method is one transaction, durable on return, and safe to call from several processes.
Times are passed in, aware and UTC. All may raise `StoreUnavailableError`; the call had no effect
then, or its effect is complete and the same call may be made again. A value that the tables cannot
hold (a naive time, an overlong title) is a ValueError.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

from storage.jobs import Decision, Delivery, Job, NewJob, NewReceived, Parcel, Received, Result
from storage.states import JobState

NO_CHOICE: Mapping[str, Any] = MappingProxyType({})
"""Every destination gets every result."""


def takers_of(
    result: Result, destinations: Sequence[str], kinds: Mapping[str, Collection[str]]
) -> list[str]:
    """The destinations that get this result (see `JobStore.produce`)."""
    return [name for name in destinations if result.kind in kinds.get(name, (result.kind,))]


class JobStore(Protocol):
    """Received instances, jobs, results and deliveries with their states."""

    def receive(self, new: NewReceived) -> Received:
        """The instance is recorded; same SOP Instance UID and digest return the first record."""
        ...

    def unrouted(self, limit: int) -> list[Received]:
        """Recorded instances without a decision, oldest first."""
        ...

    def received(self, limit: int, sop_instance_uid: str = "") -> list[Received]:
        """Recorded instances, newest first; only those of one UID where it is given."""
        ...

    def route(self, number: int, decision: Decision, job: NewJob | None) -> None:
        """The decision is kept and, where there is none of its key yet, the job exists.

        Raises:
            UnknownKeyError: no instance of that number.
        """
        ...

    def job(self, key: str) -> Job:
        """The job of that key, or of the only key that begins so.

        Raises:
            UnknownKeyError: none, or more than one.
        """
        ...

    def jobs(
        self, limit: int, state: JobState | None = None, sop_instance_uid: str = ""
    ) -> list[Job]:
        """Jobs, newest first."""
        ...

    def claim(self, owner: str, now: datetime, lease_s: float) -> Job | None:
        """The oldest RECEIVED job is RUNNING under a lease of `owner`, with a new fencing token.

        No two callers get the same job. None if nothing waits.
        """
        ...

    def heartbeat(self, key: str, token: int, until: datetime) -> None:
        """The lease holds until then.

        Raises:
            LeaseLostError: the job is no longer RUNNING under this token.
        """
        ...

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
        """The job is PRODUCED; its results and a DUE delivery for each to each destination exist.

        A destination that is in `kinds` gets results of those kinds only. Deliveries of a kind
        that is in `quarantined` are QUARANTINED for that reason.

        Raises:
            LeaseLostError: the job is no longer RUNNING under this token; nothing was written.
            ValueError: another job has a result of the same UID; nothing was written.
        """
        ...

    def reject(
        self,
        key: str,
        token: int,
        now: datetime,
        reason: str,
        notes: Sequence[Result] = (),
        destinations: Sequence[str] = (),
    ) -> None:
        """The job is REJECTED for `reason`; the notes that say so are DUE at the destinations.

        Raises LeaseLostError.
        """
        ...

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """The job is FAILED for `reason`. Raises LeaseLostError."""
        ...

    def release(self, key: str, token: int, now: datetime, reason: str) -> None:
        """The job is RECEIVED again and may be claimed by anyone. Raises LeaseLostError."""
        ...

    def reclaim(self, now: datetime, max_attempts: int) -> list[str]:
        """Jobs whose lease ran out are RECEIVED again, or FAILED if claimed `max_attempts` times.

        Deliveries whose lease ran out are DUE again. Returns the keys of the jobs.
        """
        ...

    def abandon(self, owners: str, now: datetime) -> None:
        """What owners whose name begins with `owners` hold is free again: their processes are gone.

        Their jobs are RECEIVED and their deliveries DUE, without waiting for their leases to end.
        """
        ...

    def retry(self, key: str, now: datetime) -> Job:
        """A FAILED job is RECEIVED with no attempts; REFUSED, QUARANTINED deliveries are DUE.

        Acts only on the machine that failed: results that exist are not made again.

        Raises:
            UnknownKeyError: no such job.
            TransitionError: nothing of this job failed.
        """
        ...

    def retract(
        self, note: Result, destinations: Sequence[str], now: datetime, reason: str
    ) -> bool:
        """The note on its job's results is DUE at the destinations; what was not sent is REFUSED.

        No effect, and False, if the note is there already.
        """
        ...

    def results(self, key: str) -> list[Result]:
        """The results of a job, in the order they were produced."""
        ...

    def deliveries(self, key: str) -> list[Delivery]:
        """The deliveries of a job, in the order of its results and destinations."""
        ...

    def claim_deliveries(
        self, destination: str, owner: str, now: datetime, lease_s: float, limit: int
    ) -> list[Parcel]:
        """Up to `limit` DUE deliveries whose time has come are SENDING under a lease of `owner`."""
        ...

    def delivered(self, parcel: Parcel, now: datetime, note: str) -> None:
        """The delivery is DELIVERED. No effect if it is no longer SENDING by this attempt."""
        ...

    def postpone(self, parcel: Parcel, next_attempt_at: datetime, reason: str) -> None:
        """The delivery is DUE at that time. No effect if no longer SENDING by this attempt."""
        ...

    def refuse(self, parcel: Parcel, now: datetime, reason: str) -> None:
        """The delivery is REFUSED for good. No effect if no longer SENDING by this attempt."""
        ...

    def close(self) -> None:
        """Connections are closed."""
        ...
