"""The job store's contract: what holds when each method has returned.

Every method is one transaction, durable on return, and safe to call from several processes.
Times are passed in, aware and UTC. All may raise `StoreUnavailableError`; the call had no effect
then, or its effect is complete and the same call may be made again. A value that the tables cannot
hold (a naive time, an overlong title) is a ValueError.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

from storage.jobs import (
    Decision,
    Delivery,
    DeliveryCount,
    DestinationHealth,
    Job,
    JobCount,
    NewJob,
    NewReceived,
    Notice,
    ObjectRef,
    Parcel,
    Proof,
    Received,
    Result,
    Transaction,
)
from storage.states import DeliveryState, JobState

ENDLESS_BYTES = 1 << 62
"""What is free where nobody can tell how much."""

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
        """The instance is recorded; once for each SOP Instance UID, digest and calling AE title.

        The first record has no decision any more: the film was sent again, perhaps because the
        rules or the kept file have changed. It arrived now, at another time than before whatever
        the clock says, and keeps its job, unless that came to nothing.
        """
        ...

    def unrouted(self, limit: int) -> list[Received]:
        """Recorded instances without a decision, in the order in which they came."""
        ...

    def received(
        self, limit: int, sop_instance_uid: str = "", since: datetime | None = None
    ) -> list[Received]:
        """Recorded instances, newest first; only of one UID, or arrived since, where given."""
        ...

    def unsettled(self, since: datetime) -> list[Received]:
        """Films, however old, that have yet to come to their end, or whose end was bad since then.

        That is: without a decision, or with one that is no end of its film (`is_owed`), until that
        is purged; with a job that is open, or FAILED since then; with a delivery
        that is DUE, SENDING or HELD, or DELIVERED and yet to be committed; or one that was lost
        since then. Also of a job that its film has left, when it came again and was put to another
        or to none. Newest first.
        """
        ...

    def owed(self) -> list[Received]:
        """Films that are owed a decision, in no order.

        By a fault of ours, or since their file was gone, which may have come back meanwhile. One
        that has come to an end since (`is_owed`) is none, nor is one that is purged.
        """
        ...

    def decide_again(self, now: datetime, among: AbstractSet[int] | None = None) -> int:
        """Films that are `owed` a decision have none, as if they came now: all, or those numbered.

        One stays as it came of whose SOP Instance UID other bytes came later, by whomever, unless
        these are owed a decision, too, and come again with it: it would take itself for their
        correction, and is to be sent again. Returns how many come again; they have their time once
        more, in the order in which they came.
        """
        ...

    def waiting(self) -> int:
        """How many films are not analysed yet: without a decision, or with a job not at its end."""
        ...

    def route(
        self,
        number: int,
        decision: Decision,
        job: NewJob | None,
        arrived_at: datetime | None = None,
    ) -> bool:
        """The decision is kept and the job, where one is given, exists; True.

        One of its key that came to nothing begins afresh as this one; it is as old as it was only
        where it has results, which are made again as of then. Another stays, and what this
        one promises beyond it (see storage.promises) is added: results that are there are DUE at
        destinations that did not have them, and as the others where they are QUARANTINED; one of a
        kind that was promised to nobody, or whose object was purged, is made with the rest, or the
        job is RECEIVED again for it. So is what a FAILED one had promised kept; the age of what is
        added counts from now (see `expire`). What was recalled goes nowhere.

        Where no job is given, and the decision names one that came to nothing meanwhile, the film
        stays undecided. Where `arrived_at` is given, the decision is about the film that arrived
        then: if it came again since, or was decided about, nothing changes. False, in both.

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
        """The RECEIVED job that has waited longest is RUNNING under a lease of `owner`.

        It has a new fencing token and one attempt more. A job that was released waits from then on,
        so that one that cannot be done holds up no other; its `error` still says why. No two
        callers get the same job. None if nothing waits.
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
        left_out: str = "",
    ) -> None:
        """The job is PRODUCED; its results and a DUE delivery for each to each destination exist.

        A destination that is in `kinds` gets results of those kinds only. Deliveries of a kind
        that is in `quarantined` are QUARANTINED for that reason.

        `left_out` says, as the job's `error`, what else should have been made.

        A result that the job has already has this object now. It goes to no other destination, and
        to none that has it: of its deliveries those that failed are DUE. What was promised since
        the job was claimed, and is not in `destinations` and `kinds`, is added as by `route`.

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
        quarantined: Mapping[str, str] = NO_CHOICE,
    ) -> None:
        """The job is REJECTED for `reason`; the notes that say so are DUE at the destinations.

        One whose kind is in `quarantined` is QUARANTINED for that reason. One that the job has
        already is treated as by `produce`, but goes to those who were not told, too.

        Films that came to the job while it was made of another, in other bytes or from another
        sender, have no decision any more.

        Raises LeaseLostError.
        """
        ...

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """The job is FAILED for `reason`.

        Films that came to it while it was made of another have no decision any more, as by
        `reject`, nor has its own where that came to it while it was RUNNING: the film may be whole
        now. So it is wherever else a job ends FAILED. Raises LeaseLostError.
        """
        ...

    def release(
        self, key: str, token: int, now: datetime, reason: str, *, counted: bool = False
    ) -> None:
        """The job is RECEIVED again, its attempt `counted` only where it may have been its fault.

        Raises:
            LeaseLostError: the job is no longer RUNNING under this token.
        """
        ...

    def reroute(self, key: str, token: int, now: datetime, reason: str) -> None:
        """The job is FAILED, and its films have no decision any more: each is routed afresh.

        Raises:
            LeaseLostError: the job is no longer RUNNING under this token.
        """
        ...

    def reclaim(self, now: datetime, max_attempts: int, dead: str = "") -> list[str]:
        """Jobs whose lease ran out are RECEIVED again, or FAILED if claimed `max_attempts` times.

        Deliveries whose lease ran out are DUE again. Where `dead` is given, leases of owners whose
        name begins so have run out, whatever their time. Returns the keys of the jobs.
        """
        ...

    def abandon(self, owners: str, now: datetime) -> None:
        """What owners whose name begins with `owners` hold is free again: they were made to stop.

        Their jobs are RECEIVED and their deliveries DUE, without waiting for their leases to end;
        that was no fault of the jobs', whose attempts are not counted.
        """
        ...

    def retry(self, key: str, now: datetime, lost: Collection[str] = ()) -> Job:
        """A FAILED job is RECEIVED with no attempts; REFUSED, QUARANTINED deliveries are DUE.

        Acts only on the machine that failed: results that exist are not made again. Of those in
        `lost`, by SOP Instance UID, the objects are gone: where one has yet to arrive somewhere,
        the job is RECEIVED too, and its failed deliveries wait for `produce`. So is one of which
        something was left out; its `error` still says so. What was recalled is not made again.

        Raises:
            UnknownKeyError: no such job.
            TransitionError: nothing of this job failed.
        """
        ...

    def retract(
        self, note: Result, destinations: Sequence[str], now: datetime, reason: str
    ) -> bool:
        """The note on its job's results is DUE at the destinations; what was not sent is REFUSED.

        It stays so, whoever makes it due again (see `claim_deliveries` and `retry`). False if the
        note is there already: it was made again, as by `produce`.
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
        """Up to `limit` DUE deliveries whose time has come are SENDING under a lease of `owner`.

        Those that a rejection note of their job rejects are REFUSED instead. None where the
        destination is held.
        """
        ...

    def renew_deliveries(self, parcels: Sequence[Parcel], until: datetime) -> int:
        """The leases of those that are still SENDING by this attempt hold until then; how many.

        No others': what its sender could not record is to be reclaimed, however much it sends.
        """
        ...

    def delivered(
        self,
        parcel: Parcel,
        now: datetime,
        note: str,
        status: str = "",
        *,
        promised: bool = False,
    ) -> bool:
        """The delivery is DELIVERED, and to be committed where that was `promised`.

        False, and no effect, if it is not SENDING by this attempt.
        """
        ...

    def postpone(
        self, parcel: Parcel, next_attempt_at: datetime, reason: str, status: str = ""
    ) -> bool:
        """The delivery is DUE at that time. False, without effect, as for `delivered`."""
        ...

    def give_back(self, parcel: Parcel, now: datetime, reason: str) -> bool:
        """The delivery, which was not begun, is DUE again, and no attempt counted.

        False, without effect, as for `delivered`.
        """
        ...

    def refuse(self, parcel: Parcel, now: datetime, reason: str, status: str = "") -> bool:
        """The delivery is REFUSED for good. False, without effect, as for `delivered`."""
        ...

    def refuse_lost(
        self, parcel: Parcel, now: datetime, status: str, is_lost: Callable[[Result], bool]
    ) -> bool:
        """The delivery waits for its file, REFUSED, or is DUE now where `is_lost` says otherwise.

        It is asked about the result as that is now, within the transaction: whoever makes it again
        waits, or was before. False, without effect, as for `delivered`.
        """
        ...

    def ask(
        self,
        destination: str,
        transaction_uid: str,
        now: datetime,
        again_at: datetime,
        limit: int,
    ) -> list[Parcel]:
        """Up to `limit` DELIVERED deliveries whose time has come are asked about.

        Only those whose commitment was promised when they were delivered: others are at their end.
        The transaction is known before this returns; they are asked about again at `again_at`.
        Where nothing is to be asked about there is no transaction.
        """
        ...

    def transaction(self, transaction_uid: str) -> Transaction:
        """Whom this transaction asked, and about which instances.

        Raises:
            UnknownKeyError: none of ours.
        """
        ...

    def asked_in(self, transaction_uid: str) -> list[Delivery]:
        """The DELIVERED deliveries that were asked about in this transaction, not sent since."""
        ...

    def forget_transactions(self, before: datetime) -> int:
        """Transactions from before then are gone; returns how many.

        One that a DELIVERED delivery was last asked about in stays: its report may come yet.
        """
        ...

    def commit(
        self, destination: str, uids: Sequence[str], now: datetime, asked_in: str | None = None
    ) -> int:
        """Of these results, those DELIVERED there are COMMITTED; returns how many.

        Where `asked_in` names a transaction, only those of `asked_in()`: what was sent since it was
        asked, nobody has been asked about.
        """
        ...

    def send_again(self, asked: Delivery, at: datetime, reason: str, status: str = "") -> None:
        """The delivery is DUE at that time. No effect if it is not DELIVERED, or asked anew."""
        ...

    def ask_again(
        self, transaction_uid: str, at: datetime, reason: str, uids: Collection[str] | None = None
    ) -> None:
        """What was asked in this transaction and is still DELIVERED is asked about at `at`.

        Only of these results, where `uids` says of which.
        """
        ...

    def destination(self, name: str) -> DestinationHealth:
        """How it is doing; well, where nothing is known of it."""
        ...

    def note_destination(self, health: DestinationHealth, now: datetime) -> None:
        """Failures, rest and reason are kept; whether it is held stays as it is."""
        ...

    def hold(self, name: str, now: datetime) -> None:
        """The destination is held, and what is DUE there HELD, until it is released."""
        ...

    def hold_due(self, name: str, now: datetime) -> None:
        """What is DUE at a destination that is held is HELD too; no effect at any other."""
        ...

    def release_destination(self, name: str, now: datetime) -> None:
        """It is neither held nor resting; what was HELD or had waited for it is DUE now."""
        ...

    def move_deliveries(
        self, old: str, new: str, now: datetime, *, asked: DeliveryState | None = None
    ) -> int:
        """What is DUE or HELD at `old` is DUE at `new`, once; returns how many there were.

        Attempts there begin afresh. A result that `new` gets already waits at `old` no more. Where
        `asked` is given, what is DELIVERED and yet to be committed at `old` is in that state at
        `new`: DELIVERED, to be asked about, or DUE.
        """
        ...

    def drop_deliveries(self, name: str, now: datetime, reason: str) -> int:
        """What is DUE or HELD there is REFUSED, what was to be committed no more; how many."""
        ...

    def hasten(self, name: str, now: datetime) -> int:
        """What is DUE later for the destination's own trouble is DUE now; returns how many.

        That is what had no answer, or one of `storage.jobs.says_nothing`.
        """
        ...

    def bring_forward(self, beyond: datetime, now: datetime) -> int:
        """What waits for a time after `beyond` is due now; returns how many deliveries.

        No delay is so long: a clock was ahead, and has been set back. Of every destination: what is
        DUE, what is DELIVERED and to be asked about, and its own rest. What was delivered or asked
        more than CLOCKS_APART after now was so by now: what is asked from now on asks about it. Of
        what was delivered by that clock, only the last question by it may be answered.
        """
        ...

    def expire(self, name: str, received_before: datetime, now: datetime, reason: str) -> int:
        """What is DUE there, of films that came last before that time, is EXPIRED; how many.

        What was tried again (see `retry`) is as old as that is long ago. Rejection notes never
        come too late.
        """
        ...

    def delivery_counts(self) -> list[DeliveryCount]:
        """How many deliveries are in each state, by destination and state; none that is empty."""
        ...

    def asked_counts(self) -> dict[str, int]:
        """How many DELIVERED results each destination has yet to commit, as was promised."""
        ...

    def job_counts(self) -> list[JobCount]:
        """How many jobs are in each state, by state; none that is empty."""
        ...

    def post(self, name: str, text: str, now: datetime) -> None:
        """The notice of that name, of at most 64 characters, is this one."""
        ...

    def post_once(self, name: str, text: str, now: datetime) -> str:
        """There is a notice of that name: this one, unless there was one. Returns its text."""
        ...

    def notice(self, name: str) -> Notice | None:
        """The last one of that name; None where there was none."""
        ...

    def purgeable_received(self, before: datetime, proof: Proof, limit: int) -> list[Received]:
        """Films received before then whose object nobody needs any more, oldest first.

        That is so where it was decided not to analyse them, by no fault of ours, or their job is
        REJECTED, or PRODUCED with nothing left out, and there is `proof` of each of its deliveries,
        a note's too. A job that the film has left, when it came again and was put to another or to
        none, is not open, and has nothing under way.
        """
        ...

    def purgeable_results(self, before: datetime, proof: Proof, limit: int) -> list[Result]:
        """Results of such jobs that ended before then."""
        ...

    def purge_received(
        self,
        film: Received,
        before: datetime,
        proof: Proof,
        now: datetime,
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """A film that is still purgeable (see `purgeable_received`) is purged, and its row says so.

        `remove` is called with its object within the transaction: who receives the film again
        meanwhile waits, and can see afterwards whether the object is there. What `remove` raises
        leaves the row as it was. Returns whether it was so.
        """
        ...

    def purge_result(
        self,
        result: Result,
        before: datetime,
        proof: Proof,
        now: datetime,
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """The same of a result; who makes it due again meanwhile waits.

        But its row says so first, in a transaction of its own: whoever needs it has it made again,
        also where `remove` raised, or the process died before. Then its file is `unknown`.
        """
        ...

    def unknown(self, names: Collection[str]) -> list[str]:
        """Which of these objects no film and no result has, or only one that was purged.

        A result's that was purged is known while its job is open: whoever makes it again may find
        it whole, and keep it as it is.
        """
        ...

    def drop_unknown(self, name: str, drop: Callable[[], bool]) -> bool:
        """`drop` was called if nothing has the object, while nothing could come to have it.

        Within one transaction, for which whoever receives a film waits, or would have a result
        made again. Returns what `drop` did.
        """
        ...

    def free_bytes(self) -> int:
        """How much more the disk of the rows could take; a server's is not known, and endless.

        Raises:
            StoreUnavailableError: the disk does not tell.
        """
        ...

    def ahead_s(self, now: datetime) -> float:
        """How far `now` is ahead of the clock where the rows are; 0 where that is ours.

        Machines that share a database judge each other's leases by their own clocks.
        """
        ...

    def close(self) -> None:
        """Connections are closed."""
        ...
