"""The job store's contract in memory: for tests, and for whoever needs no durability."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from storage import promises
from storage.errors import LeaseLostError, TransitionError, UnknownKeyError
from storage.jobs import (
    RECALLED,
    REJECTION_NOTE,
    Decision,
    Delivery,
    DeliveryCount,
    DestinationHealth,
    Job,
    JobCount,
    Lease,
    NewJob,
    NewReceived,
    Notice,
    ObjectRef,
    Parcel,
    Proof,
    Received,
    Result,
    Transaction,
    says_nothing,
)
from storage.states import OPEN, UNDONE, DeliveryState, JobState, check_delivery, check_job
from storage.store import ENDLESS_BYTES, NO_CHOICE, takers_of
from storage.words import legible

_F = TypeVar("_F", bound=Callable[..., Any])
_WAITING = {DeliveryState.DUE, DeliveryState.HELD}
_ARRIVED = {DeliveryState.DELIVERED, DeliveryState.COMMITTED}
_RETRIED = {DeliveryState.REFUSED, DeliveryState.QUARANTINED, DeliveryState.EXPIRED}
_Name = tuple[str, str]
_MOMENT = timedelta.resolution


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
        self._retried: dict[_Name, datetime] = {}
        self._delivered: dict[_Name, datetime] = {}
        self._transactions: dict[str, tuple[Transaction, datetime]] = {}
        self._notices: dict[str, Notice] = {}
        self._destinations: dict[str, DestinationHealth] = {}
        self._purged_films: set[int] = set()
        self._joined: set[int] = set()
        self._purged_results: set[str] = set()

    @_locked
    def receive(self, new: NewReceived) -> Received:
        """See JobStore."""
        for known in self._received.values():
            if _sent(known) == _sent(new):
                self._purged_films.discard(known.number)
                undone = known.job_key and self._jobs[known.job_key].state in UNDONE
                job_key = "" if undone else known.job_key
                anew = replace(known, decision="", job_key=job_key, arrived_at=new.received_at)
                self._received[known.number] = anew
                return anew
        number = len(self._received) + 1
        self._received[number] = Received(
            **_fields(new), number=number, arrived_at=new.received_at, decision="", job_key=""
        )
        return self._received[number]

    @_locked
    def unrouted(self, limit: int) -> list[Received]:
        """See JobStore."""
        return [film for film in self._received.values() if not film.decision][:limit]

    @_locked
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

    @_locked
    def unsettled(self, since: datetime) -> list[Received]:
        """See JobStore."""
        jobs = {
            job.key
            for job in self._jobs.values()
            if job.state in OPEN or (job.state is JobState.FAILED and job.updated_at >= since)
        }
        jobs |= {d.job_key for d in self._deliveries.values() if _is_unsettled(d, since)}
        newest = reversed(self._received.values())
        return [film for film in newest if not film.decision or film.job_key in jobs]

    @_locked
    def waiting(self) -> int:
        """See JobStore."""
        unrouted = sum(not film.decision for film in self._received.values())
        return unrouted + sum(job.state in OPEN for job in self._jobs.values())

    @_locked
    def route(self, number: int, decision: Decision, job: NewJob | None) -> None:
        """See JobStore."""
        if number not in self._received:
            raise UnknownKeyError(f"no received instance {number}")
        if job is not None:
            self._submit(job)
        if decision.job_key in self._jobs and self._jobs[decision.job_key].state in UNDONE:
            return
        film = self._received[number]
        self._received[number] = replace(
            film, decision=legible(decision.text), job_key=decision.job_key
        )
        its_own = self._jobs.get(decision.job_key)
        if its_own is not None and _sent(film) == _made_of(its_own):
            self._joined.discard(number)
        else:
            self._joined.add(number)

    def _submit(self, job: NewJob) -> None:
        known = self._jobs.setdefault(job.key, _stored(job))
        self._tokens.setdefault(job.key, 0)
        had = promises.kept_of(known)
        more = promises.beyond(had, promises.of(job))
        if known.state in UNDONE:
            check_job(known.state, JobState.RECEIVED)
            self._jobs[job.key] = _stored(job)
        if more or known.state in UNDONE:
            promised = promises.in_all(had, job)
            self._jobs[job.key] = replace(self._jobs[job.key], promised=promised)
        if known.state is JobState.REJECTED:
            more = promises.without_notes(more)
        self._bring(job.key, had, more, job.created_at)

    def _bring(self, key: str, had: promises.Kinds, more: promises.Kinds, now: datetime) -> None:
        if not more:
            return
        made = {result.kind: result for result in self.results(key)}
        recalled = REJECTION_NOTE in made
        for kind, result in made.items():
            takers = [name for name, kinds in more.items() if kind in kinds]
            self._add_takers(result, takers, now, recalled=recalled)
        wanted = {kind for kinds in more.values() for kind in kinds} & set(made)
        gone = any(made[kind].sop_instance_uid in self._purged_results for kind in wanted)
        anew = gone or promises.kinds_new_to(had, more) - set(made)
        job = self._jobs[key]
        if anew and not recalled and job.state is JobState.PRODUCED:
            self._change(job, JobState.RECEIVED, now, error=job.error, attempts=0)

    def _add_takers(
        self, result: Result, takers: Sequence[str], now: datetime, *, recalled: bool
    ) -> None:
        uid = result.sop_instance_uid
        there = [d for (of, _), d in self._deliveries.items() if of == uid]
        state, reason = promises.first_step(
            recalled=recalled,
            purged=uid in self._purged_results,
            faults=[d.reason for d in there if d.state is DeliveryState.QUARANTINED],
        )
        known = {delivery.destination for delivery in there}
        for destination in takers:
            if destination not in known:
                self._add_delivery(result, destination, now, state, reason, again=True)

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
        job = min(waiting, key=lambda job: (job.updated_at, job.created_at, job.key))
        self._tokens[job.key] += 1
        lease = Lease(
            owner=owner, token=self._tokens[job.key], until=now + timedelta(seconds=lease_s)
        )
        return self._change(
            job, JobState.RUNNING, now, error=job.error, lease=lease, attempts=job.attempts + 1
        )

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
        left_out: str = "",
    ) -> None:
        """See JobStore."""
        known = [self._results.get(result.sop_instance_uid) for result in results]
        if any(other is not None and other.job_key != key for other in known):
            raise ValueError("results.sop_instance_uid: another job has it")
        self._leave(key, token, JobState.PRODUCED, now, left_out)
        again = bool(self.results(key)) or token > self._jobs[key].attempts
        for result in results:
            takers = takers_of(result, destinations, kinds)
            self._put_result(result, takers, now, quarantined.get(result.kind, ""), again=again)
        promised = self._jobs[key].promised
        had = {name: tuple(kinds.get(name, promised.get(name, ()))) for name in destinations}
        self._bring(key, had, promises.beyond(had, promised), now)

    @_locked
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
        """See JobStore."""
        self._leave(key, token, JobState.REJECTED, now, reason)
        for note in notes:
            self._put_result(note, destinations, now, quarantined.get(note.kind, ""))
            self._add_takers(note, destinations, now, recalled=False)

    def _put_result(
        self,
        result: Result,
        destinations: Sequence[str],
        now: datetime,
        quarantined: str,
        *,
        again: bool = False,
        every: bool = False,
    ) -> None:
        uid = result.sop_instance_uid
        if uid not in self._results:
            self._add_result(result, destinations, now, quarantined, again=again)
            return
        same = self._results[uid].object.digest == result.object.digest
        kept = same and uid not in self._purged_results
        only_waiting = kept and not (every or quarantined)
        self._results[uid] = result
        self._purged_results.discard(uid)
        new = DeliveryState.QUARANTINED if quarantined else DeliveryState.DUE
        old = (_RETRIED | _WAITING if quarantined else _RETRIED) - {new}
        for name, delivery in [*self._deliveries.items()]:
            waits = not only_waiting or delivery.reason in promises.WAITS_FOR_FILE
            if name[0] == uid and delivery.state in old and waits:
                self._finish(name, new, now, quarantined)
                self._retried[name] = now

    def _add_result(
        self,
        result: Result,
        destinations: Sequence[str],
        now: datetime,
        quarantined: str = "",
        *,
        again: bool = False,
    ) -> None:
        self._results[result.sop_instance_uid] = result
        state = DeliveryState.QUARANTINED if quarantined else DeliveryState.DUE
        for destination in destinations:
            self._add_delivery(result, destination, now, state, quarantined, again=again)

    def _add_delivery(
        self,
        result: Result,
        destination: str,
        now: datetime,
        state: DeliveryState,
        reason: str,
        *,
        again: bool,
    ) -> None:
        name = result.sop_instance_uid, destination
        self._deliveries[name] = Delivery(
            job_key=result.job_key,
            sop_instance_uid=result.sop_instance_uid,
            destination=destination,
            state=state,
            attempts=0,
            next_attempt_at=now,
            reason=legible(reason),
        )
        if again:
            self._retried[name] = now

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.FAILED, now, reason)

    def release(
        self, key: str, token: int, now: datetime, reason: str, *, counted: bool = False
    ) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.RECEIVED, now, reason)
        job = self._jobs[key]
        self._jobs[key] = replace(job, attempts=job.attempts - (0 if counted else 1))

    @_locked
    def reroute(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.FAILED, now, reason)
        for number, film in self._received.items():
            if film.job_key == key:
                self._received[number] = replace(film, decision="", job_key="")

    @_locked
    def reclaim(self, now: datetime, max_attempts: int, dead: str = "") -> list[str]:
        """See JobStore."""

        def is_over(owner: str, until: datetime) -> bool:
            return until < now or (dead != "" and owner.startswith(dead))

        leased = [(job, job.lease) for job in self._jobs.values() if job.lease]
        lapsed = [job for job, lease in leased if is_over(lease.owner, lease.until)]
        for job in lapsed:
            spent = job.attempts >= max_attempts
            reason = f"its worker died {job.attempts} times" if spent else "its worker was lost"
            state = JobState.FAILED if spent else JobState.RECEIVED
            self._change(job, state, now, error=reason)
        for name, (owner, until) in [*self._sending.items()]:
            if is_over(owner, until):
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
    def retry(self, key: str, now: datetime, lost: Collection[str] = ()) -> Job:
        """See JobStore."""
        job = self.job(key)
        undone = job.state is JobState.FAILED
        mine = [d for d in self.deliveries(job.key) if not self._is_rejected(d)]
        failed = [d for d in mine if d.state in _RETRIED and d.sop_instance_uid not in lost]
        remade = self._is_to_be_made_again(job, lost)
        if not (failed or remade or undone):
            raise TransitionError(f"job {key[:12]} is {job.state}: nothing of it has failed")
        for delivery in failed:
            self._finish(_name(delivery), DeliveryState.DUE, now, "")
            self._retried[_name(delivery)] = now
        for delivery in self.deliveries(job.key):
            if delivery.sop_instance_uid in lost and delivery.state in _RETRIED:
                waiting = replace(delivery, reason=promises.LOST)
                self._deliveries[_name(delivery)] = waiting
        if undone:
            return self._change(job, JobState.RECEIVED, now, attempts=0)
        if not remade:
            return job
        left_out = job.error if job.state is JobState.PRODUCED else ""
        return self._change(job, JobState.RECEIVED, now, error=left_out, attempts=0)

    def _is_to_be_made_again(self, job: Job, lost: Collection[str]) -> bool:
        recalled = any(made.kind == REJECTION_NOTE for made in self.results(job.key))
        wanted = any(
            delivery.sop_instance_uid in lost and delivery.state not in _ARRIVED
            for delivery in self.deliveries(job.key)
        )
        left_out = job.state is JobState.PRODUCED and job.error != ""
        return (wanted or left_out) and not recalled and job.state not in OPEN

    @_locked
    def retract(
        self, note: Result, destinations: Sequence[str], now: datetime, reason: str
    ) -> bool:
        """See JobStore."""
        if note.sop_instance_uid in self._results:
            self._put_result(note, destinations, now, "", every=True)
            return False
        for name, delivery in [*self._deliveries.items()]:
            if delivery.job_key == note.job_key and delivery.state in _WAITING:
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
        parcels = []
        for name, delivery in due[:limit]:
            if self._is_rejected(delivery):
                self._finish(name, DeliveryState.REFUSED, now, RECALLED)
            else:
                parcels.append(self._start_sending(name, owner, now, lease_s))
        return parcels

    @_locked
    def renew_deliveries(self, destination: str, owner: str, until: datetime) -> int:
        """See JobStore."""
        mine = [n for n, (by, _) in self._sending.items() if (n[1], by) == (destination, owner)]
        for name in mine:
            self._sending[name] = (owner, until)
        return len(mine)

    def delivered(self, parcel: Parcel, now: datetime, note: str, status: str = "") -> bool:
        """See JobStore."""
        return self._leave_sending(parcel, DeliveryState.DELIVERED, now, note, status)

    def postpone(
        self, parcel: Parcel, next_attempt_at: datetime, reason: str, status: str = ""
    ) -> bool:
        """See JobStore."""
        return self._leave_sending(parcel, DeliveryState.DUE, next_attempt_at, reason, status)

    def refuse(self, parcel: Parcel, now: datetime, reason: str, status: str = "") -> bool:
        """See JobStore."""
        return self._leave_sending(parcel, DeliveryState.REFUSED, now, reason, status)

    @_locked
    def ask(
        self,
        destination: str,
        transaction_uid: str,
        now: datetime,
        again_at: datetime,
        limit: int,
    ) -> list[Parcel]:
        """See JobStore."""
        due = [
            name
            for name, delivery in self._deliveries.items()
            if delivery.state is DeliveryState.DELIVERED
            and delivery.destination == destination
            and delivery.next_attempt_at <= now
        ]
        due.sort(key=lambda name: (self._deliveries[name].next_attempt_at, name))
        if due:
            transaction = Transaction(
                uid=transaction_uid,
                destination=destination,
                sop_instance_uids=frozenset(uid for uid, _ in due[:limit]),
            )
            self._transactions[transaction_uid] = (transaction, now)
        return [self._asked(name, transaction_uid, again_at) for name in due[:limit]]

    @_locked
    def transaction(self, transaction_uid: str) -> Transaction:
        """See JobStore."""
        if transaction_uid not in self._transactions:
            raise UnknownKeyError(f"no transaction {transaction_uid!r}")
        return self._transactions[transaction_uid][0]

    @_locked
    def forget_transactions(self, before: datetime) -> int:
        """See JobStore."""
        old = [uid for uid, (_, at) in self._transactions.items() if at < before]
        needed = {d.transaction_uid for place in self._places() for d in self._asked_at(place)}
        unneeded = [uid for uid in old if uid not in needed]
        for uid in unneeded:
            del self._transactions[uid]
        return len(unneeded)

    @_locked
    def asked_in(self, transaction_uid: str) -> list[Delivery]:
        """See JobStore."""
        if transaction_uid not in self._transactions:
            return []
        transaction, at = self._transactions[transaction_uid]
        return [
            delivery
            for _, delivery in self._at(transaction.destination, DeliveryState.DELIVERED)
            if delivery.sop_instance_uid in transaction.sop_instance_uids
            and self._delivered[_name(delivery)] <= at
        ]

    @_locked
    def commit(self, destination: str, uids: Sequence[str], now: datetime) -> int:
        """See JobStore."""
        names = [(uid, destination) for uid in dict.fromkeys(uids)]
        known = [self._deliveries[name] for name in names if name in self._deliveries]
        there = [d for d in known if d.state is DeliveryState.DELIVERED]
        for delivery in there:
            self._finish(_name(delivery), DeliveryState.COMMITTED, now, delivery.reason)
        return len(there)

    @_locked
    def send_again(self, asked: Delivery, at: datetime, reason: str, status: str = "") -> None:
        """See JobStore."""
        known = self._deliveries.get(_name(asked))
        if (
            known is not None
            and known.state is DeliveryState.DELIVERED
            and known.transaction_uid == asked.transaction_uid
        ):
            self._finish(_name(asked), DeliveryState.DUE, at, reason, status)

    @_locked
    def ask_again(self, transaction_uid: str, at: datetime, reason: str) -> None:
        """See JobStore."""
        last = [d for d in self.asked_in(transaction_uid) if d.transaction_uid == transaction_uid]
        for delivery in last:
            self._deliveries[_name(delivery)] = replace(
                delivery, next_attempt_at=at, reason=legible(reason)
            )

    @_locked
    def destination(self, name: str) -> DestinationHealth:
        """See JobStore."""
        return self._destinations.get(name, DestinationHealth(name=name))

    @_locked
    def note_destination(self, health: DestinationHealth, now: datetime) -> None:  # noqa: ARG002
        """See JobStore."""
        held = self.destination(health.name).held
        self._destinations[health.name] = replace(health, held=held, reason=legible(health.reason))

    @_locked
    def hold(self, name: str, now: datetime) -> None:
        """See JobStore."""
        self._destinations[name] = replace(self.destination(name), held=True)
        for at, delivery in self._at(name, DeliveryState.DUE):
            self._finish(at, DeliveryState.HELD, now, delivery.reason)

    @_locked
    def hold_due(self, name: str, now: datetime) -> None:
        """See JobStore."""
        if self.destination(name).held:
            self.hold(name, now)

    @_locked
    def release_destination(self, name: str, now: datetime) -> None:
        """See JobStore."""
        self._destinations[name] = DestinationHealth(name=name)
        for at, delivery in self._at(name, DeliveryState.HELD):
            self._finish(at, DeliveryState.DUE, now, delivery.reason)
        self.hasten(name, now)

    @_locked
    def move_deliveries(self, old: str, new: str, now: datetime, *, asked: bool = False) -> int:
        """See JobStore."""
        moved = [
            replace(delivery, state=DeliveryState.DUE, attempts=0, status="")
            for _, delivery in self._waiting(old)
        ]
        moved += self._asked_at(old) if asked else []
        for delivery in moved:
            del self._deliveries[_name(delivery)]
            afresh = replace(
                delivery,
                destination=new,
                next_attempt_at=now,
                reason=f"moved from {old}",
                transaction_uid="",
                asked=0,
            )
            self._deliveries.setdefault(_name(afresh), afresh)
            self._delivered[_name(afresh)] = self._delivered.get(_name(delivery), now)
        return len(moved)

    @_locked
    def drop_deliveries(self, name: str, now: datetime, reason: str) -> int:
        """See JobStore."""
        waiting = self._waiting(name)
        for at, _ in waiting:
            self._finish(at, DeliveryState.REFUSED, now, reason)
        asked = self._asked_at(name)
        for delivery in asked:
            self._deliveries[_name(delivery)] = replace(delivery, transaction_uid="", asked=0)
        return len(waiting) + len(asked)

    def _asked_at(self, destination: str) -> list[Delivery]:
        there = self._at(destination, DeliveryState.DELIVERED)
        return [delivery for _, delivery in there if delivery.transaction_uid]

    def _waiting(self, destination: str) -> list[tuple[_Name, Delivery]]:
        states = (DeliveryState.DUE, DeliveryState.HELD)
        return [found for state in states for found in self._at(destination, state)]

    @_locked
    def hasten(self, name: str, now: datetime) -> int:
        """See JobStore."""
        waiting = [
            (at, delivery)
            for at, delivery in self._at(name, DeliveryState.DUE)
            if delivery.next_attempt_at > now and says_nothing(delivery.status)
        ]
        for at, delivery in waiting:
            self._deliveries[at] = replace(delivery, next_attempt_at=now)
        return len(waiting)

    @_locked
    def expire(self, name: str, received_before: datetime, now: datetime, reason: str) -> int:
        """See JobStore."""
        films = self._received.values()
        old = {film.job_key for film in films if film.received_at < received_before}
        due = self._at(name, DeliveryState.DUE)
        late = [
            at
            for at, delivery in due
            if delivery.job_key in old
            and self._retried.get(at, received_before - _MOMENT) < received_before
            and self._results[at[0]].kind != REJECTION_NOTE
        ]
        for at in late:
            self._finish(at, DeliveryState.EXPIRED, now, reason)
        return len(late)

    @_locked
    def delivery_counts(self) -> list[DeliveryCount]:
        """See JobStore."""
        found = Counter((d.destination, d.state) for d in self._deliveries.values())
        return [
            DeliveryCount(destination=destination, state=state, number=number)
            for (destination, state), number in sorted(found.items())
        ]

    @_locked
    def asked_counts(self) -> dict[str, int]:
        """See JobStore."""
        found = {place: len(self._asked_at(place)) for place in self._places()}
        return {place: number for place, number in found.items() if number}

    def _places(self) -> list[str]:
        return sorted({place for _, place in self._deliveries})

    @_locked
    def job_counts(self) -> list[JobCount]:
        """See JobStore."""
        made: dict[JobState, list[datetime]] = {}
        for job in self._jobs.values():
            made.setdefault(job.state, []).append(job.created_at)
        return [
            JobCount(state=state, number=len(times), oldest=min(times))
            for state, times in sorted(made.items())
        ]

    @_locked
    def post(self, name: str, text: str, now: datetime) -> None:
        """See JobStore."""
        self._notices[name] = Notice(at=now, text=legible(text))

    @_locked
    def notice(self, name: str) -> Notice | None:
        """See JobStore."""
        return self._notices.get(name)

    @_locked
    def purgeable_received(self, before: datetime, proof: Proof, limit: int) -> list[Received]:
        """See JobStore."""
        films = self._received.values()
        return [film for film in films if self._may_go(film, before, proof)][:limit]

    def _may_go(self, film: Received, before: datetime, proof: Proof) -> bool:
        senders = [other for other in self._received.values() if other.object == film.object]
        return film.number not in self._purged_films and all(
            other.received_at < before
            and other.decision != ""
            and (not other.job_key or self._is_final(other.job_key, proof))
            for other in senders
            if other.number not in self._purged_films
        )

    @_locked
    def purgeable_results(self, before: datetime, proof: Proof, limit: int) -> list[Result]:
        """See JobStore."""
        made = self._results.values()
        return [result for result in made if self._is_unneeded(result, before, proof)][:limit]

    def _is_unneeded(self, result: Result, before: datetime, proof: Proof) -> bool:
        return (
            self._jobs[result.job_key].updated_at < before
            and result.sop_instance_uid not in self._purged_results
            and self._is_final(result.job_key, proof)
        )

    @_locked
    def purge_received(
        self,
        film: Received,
        before: datetime,
        proof: Proof,
        now: datetime,  # noqa: ARG002
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """See JobStore."""
        if not self._may_go(self._received[film.number], before, proof):
            return False
        remove(film.object)
        self._purged_films.add(film.number)
        return True

    @_locked
    def purge_result(
        self,
        result: Result,
        before: datetime,
        proof: Proof,
        now: datetime,  # noqa: ARG002
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """See JobStore."""
        if not self._is_unneeded(result, before, proof):
            return False
        remove(result.object)
        self._purged_results.add(result.sop_instance_uid)
        return True

    def _is_final(self, key: str, proof: Proof) -> bool:
        job = self._jobs[key]
        whole = job.state is JobState.PRODUCED and job.error == ""
        return (whole or job.state is JobState.REJECTED) and all(
            map(proof.is_of, self.deliveries(key))
        )

    @_locked
    def unknown(self, names: Collection[str]) -> list[str]:
        """See JobStore."""
        films = {f.object.name for n, f in self._received.items() if n not in self._purged_films}
        made = {r.object.name for u, r in self._results.items() if u not in self._purged_results}
        return [name for name in names if name not in films | made]

    @_locked
    def drop_unknown(self, name: str, drop: Callable[[], bool]) -> bool:
        """See JobStore."""
        return bool(self.unknown([name])) and drop()

    def free_bytes(self) -> int:
        """See JobStore."""
        return ENDLESS_BYTES

    def close(self) -> None:
        """See JobStore."""

    def _at(self, destination: str, state: DeliveryState) -> list[tuple[_Name, Delivery]]:
        return [
            (name, delivery)
            for name, delivery in self._deliveries.items()
            if delivery.destination == destination and delivery.state is state
        ]

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
        if state in UNDONE:
            self._free_joined_films(job.key)
        return self._jobs[job.key]

    def _free_joined_films(self, key: str) -> None:
        for number in self._joined:
            film = self._received[number]
            if film.job_key == key:
                self._received[number] = replace(film, decision="", job_key="")

    def _is_rejected(self, delivery: Delivery) -> bool:
        """Whether a note of its job rejects this result."""
        if self._results[delivery.sop_instance_uid].kind == REJECTION_NOTE:
            return False
        return any(made.kind == REJECTION_NOTE for made in self.results(delivery.job_key))

    def _start_sending(self, name: _Name, owner: str, now: datetime, lease_s: float) -> Parcel:
        delivery = self._deliveries[name]
        check_delivery(delivery.state, DeliveryState.SENDING)
        sending = replace(delivery, state=DeliveryState.SENDING, attempts=delivery.attempts + 1)
        self._deliveries[name] = sending
        self._sending[name] = (owner, now + timedelta(seconds=lease_s))
        return Parcel(delivery=sending, result=self._results[name[0]])

    @_locked
    def _leave_sending(
        self, parcel: Parcel, state: DeliveryState, at: datetime, reason: str, status: str
    ) -> bool:
        name = _name(parcel.delivery)
        if self._deliveries.get(name) != parcel.delivery:
            return False
        self._deliveries[name] = replace(parcel.delivery, asked=0, transaction_uid="")
        self._finish(name, state, at, reason, status)
        if state is DeliveryState.DELIVERED:
            self._delivered[name] = at
        return True

    def _finish(
        self,
        name: _Name,
        state: DeliveryState,
        at: datetime,
        reason: str,
        status: str | None = None,
    ) -> None:
        delivery = self._deliveries[name]
        check_delivery(delivery.state, state)
        self._sending.pop(name, None)
        self._deliveries[name] = replace(
            delivery,
            state=state,
            next_attempt_at=at,
            reason=legible(reason),
            status=delivery.status if status is None else status,
        )

    def _asked(self, name: _Name, transaction_uid: str, again_at: datetime) -> Parcel:
        delivery = replace(
            self._deliveries[name],
            transaction_uid=transaction_uid,
            asked=self._deliveries[name].asked + 1,
            next_attempt_at=again_at,
        )
        self._deliveries[name] = delivery
        return Parcel(delivery=delivery, result=self._results[name[0]])


def _name(delivery: Delivery) -> _Name:
    return delivery.sop_instance_uid, delivery.destination


def _sent(film: NewReceived) -> tuple[str, ...]:
    """What makes it the same film of the same sender."""
    return film.sop_instance_uid, film.object.digest, film.calling_ae_title


def _made_of(job: Job) -> tuple[str, ...]:
    """The same of the film that the job is made of."""
    return job.sop_instance_uid, job.object.digest, job.calling_ae_title


def _is_unsettled(delivery: Delivery, since: datetime) -> bool:
    asked = delivery.state is DeliveryState.DELIVERED and delivery.transaction_uid != ""
    lost = delivery.state in _RETRIED and delivery.next_attempt_at >= since
    return delivery.state in _WAITING | {DeliveryState.SENDING} or asked or lost


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
