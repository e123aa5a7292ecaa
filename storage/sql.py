"""The job store in SQLite or PostgreSQL. The contract is that of storage.store."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    Update,
    case,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from storage import engine, migrate, promises, rows, schema
from storage.errors import LeaseLostError, StorageError, TransitionError, UnknownKeyError
from storage.jobs import (
    FOR_PEOPLE,
    NOT_ITS_OWN,
    RECALLED,
    REJECTION_NOTE,
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
from storage.schema import (
    deliveries,
    destinations,
    jobs,
    notices,
    received,
    results,
    transactions,
)
from storage.states import OPEN, UNDONE, DeliveryState, JobState, check_delivery, check_job
from storage.store import ENDLESS_BYTES, NO_CHOICE, takers_of

_ENDED = (JobState.PRODUCED, JobState.REJECTED)
"""A rejected job too has results: the notes that say why."""
_MOST_DESTINATIONS = 1000
"""Deliveries are listed by result, then destination; beyond it their order is not kept."""
_WAITING = (DeliveryState.DUE, DeliveryState.HELD)
_ARRIVED = (DeliveryState.DELIVERED, DeliveryState.COMMITTED)
_RETRIED = (DeliveryState.REFUSED, DeliveryState.QUARANTINED, DeliveryState.EXPIRED)
_arrived_at = func.coalesce(received.c.arrived_at, received.c.received_at)


class SqlJobStore:
    """Rows by SQLAlchemy. The one difference between the databases is how they lock:
    rows and tables on PostgreSQL, which SQLite, where one writer is alone, leaves out.
    """

    def __init__(self, url: str) -> None:
        """Open the store.

        Raises:
            StoreMismatchError: the schema is not this version's; `storage.migrate.up` makes it so.
            StoreUnavailableError: the database does not answer.
        """
        self._engine = engine.connect(url)
        try:
            migrate.demand_head(self._engine)
        except StorageError:
            self._engine.dispose()
            raise

    def receive(self, new: NewReceived) -> Received:
        """See JobStore."""
        same = _rows_of(new.sop_instance_uid, new.object.digest).where(
            received.c.calling_ae_title == new.calling_ae_title
        )
        with engine.writing(self._engine) as db:
            known = db.execute(same).mappings().first()
            # Jobs are locked before films, wherever both are.
            undone = known is not None and _is_undone(db, known["job_key"])
            # Of any sender: whoever purges its object waits, or is waited for.
            db.execute(_rows_of(new.sop_instance_uid, new.object.digest).with_for_update())
            if known is None:
                _insert_once(db, received, rows.received_values(new), same)
            else:
                no_job = {"job_key": ""} if undone else {}
                again = update(received).where(received.c.number == known["number"])
                anew = {"purged_at": None, "decision": "", "arrived_at": new.received_at}
                db.execute(again.values(**anew, **no_job))
            return rows.received_of(db.execute(same).mappings().one())

    def unrouted(self, limit: int) -> list[Received]:
        """See JobStore."""
        query = select(received).where(received.c.decision == "").order_by(received.c.number)
        return [rows.received_of(row) for row in self._rows(query.limit(limit))]

    def received(
        self, limit: int, sop_instance_uid: str = "", since: datetime | None = None
    ) -> list[Received]:
        """See JobStore."""
        query = select(received).order_by(received.c.number.desc()).limit(limit)
        if sop_instance_uid:
            query = query.where(received.c.sop_instance_uid == sop_instance_uid)
        if since is not None:
            query = query.where(_arrived_at >= since)
        return [rows.received_of(row) for row in self._rows(query)]

    def unsettled(self, since: datetime) -> list[Received]:
        """See JobStore."""
        failed = (jobs.c.state == JobState.FAILED) & (jobs.c.updated_at >= since)
        open_jobs = select(jobs.c.key).where(or_(jobs.c.state.in_(OPEN), failed))
        state = deliveries.c.state
        lost = state.in_(_RETRIED) & (deliveries.c.next_attempt_at >= since)
        asked = _IS_ASKED[0] & _IS_ASKED[1]
        waiting = state.in_((*_WAITING, DeliveryState.SENDING))
        open_deliveries = select(deliveries.c.job_key).where(or_(waiting, lost, asked))
        query = select(received).where(
            or_(
                received.c.decision == "",
                received.c.job_key.in_(open_jobs),
                received.c.job_key.in_(open_deliveries),
            )
        )
        return [
            rows.received_of(row) for row in self._rows(query.order_by(received.c.number.desc()))
        ]

    def waiting(self) -> int:
        """See JobStore."""
        unrouted = select(func.count().label("number")).where(received.c.decision == "")
        unfinished = select(func.count().label("number")).where(jobs.c.state.in_(OPEN))
        return sum(int(self._rows(query)[0]["number"]) for query in (unrouted, unfinished))

    def route(self, number: int, decision: Decision, job: NewJob | None) -> None:
        """See JobStore."""
        change = update(received).where(received.c.number == number)
        joined = ~_its_job(decision.job_key).exists()
        values = {"decision": decision.text, "job_key": decision.job_key, "joined": joined}
        with engine.writing(self._engine) as db:
            if job is not None:
                _submit(db, job)
            elif _is_undone(db, decision.job_key):
                return
            if db.execute(change.values(**values)).rowcount == 0:
                raise UnknownKeyError(f"no received instance {number}")

    def job(self, key: str) -> Job:
        """See JobStore."""
        exactly = self._rows(select(jobs).where(jobs.c.key == key))
        # LIKE would take %, and on SQLite any case, for a match.
        beginning = func.substr(jobs.c.key, 1, len(key)) == key
        found = exactly or self._rows(select(jobs).where(beginning).limit(2))
        if not key or not found:
            raise UnknownKeyError(f"no job {key!r}")
        if len(found) > 1:
            raise UnknownKeyError(f"more than one job begins with {key!r}")
        return rows.job_of(found[0])

    def jobs(
        self, limit: int, state: JobState | None = None, sop_instance_uid: str = ""
    ) -> list[Job]:
        """See JobStore."""
        query = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.key).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if sop_instance_uid:
            query = query.where(jobs.c.sop_instance_uid == sop_instance_uid)
        return [rows.job_of(row) for row in self._rows(query)]

    def claim(self, owner: str, now: datetime, lease_s: float) -> Job | None:
        """See JobStore."""
        waiting = (
            select(jobs)
            .where(jobs.c.state == JobState.RECEIVED)
            .order_by(jobs.c.updated_at, jobs.c.created_at, jobs.c.key)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with engine.writing(self._engine) as db:
            row = db.execute(waiting).mappings().first()
            if row is None:
                return None
            change = (
                update(jobs)
                .where(jobs.c.key == row["key"], jobs.c.state == JobState.RECEIVED)
                .values(
                    state=JobState.RUNNING,
                    attempts=jobs.c.attempts + 1,
                    updated_at=now,
                    lease_owner=owner,
                    lease_token=jobs.c.lease_token + 1,
                    lease_until=now + timedelta(seconds=lease_s),
                )
                .returning(jobs)
            )
            return rows.job_of(db.execute(change).mappings().one())

    def heartbeat(self, key: str, token: int, until: datetime) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _guarded(db, key, token, lease_until=until)

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
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.PRODUCED, now, left_out)
            attempts = db.execute(select(jobs.c.attempts).where(jobs.c.key == key)).scalar_one()
            made = db.execute(_made_of(key).limit(1)).first() is not None
            again = made or token > attempts  # attempts are counted afresh, tokens never
            for result in results:
                takers = takers_of(result, destinations, kinds)
                wrong = quarantined.get(result.kind, "")
                _put_result(db, result, takers, now, wrong, again=again)
            _catch_up(db, key, destinations, kinds, now)

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
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.REJECTED, now, reason)
            for note in notes:
                _put_result(db, note, destinations, now, quarantined.get(note.kind, ""))
                mine = _made_of(key).where(
                    schema.results.c.sop_instance_uid == note.sop_instance_uid
                )
                row = db.execute(mine).mappings().one()
                _add_takers(db, row, destinations, now, recalled=False)

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.FAILED, now, reason)

    def release(
        self, key: str, token: int, now: datetime, reason: str, *, counted: bool = False
    ) -> None:
        """See JobStore."""
        attempts = jobs.c.attempts - (0 if counted else 1)
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.RECEIVED, now, reason, attempts=attempts)

    def reroute(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        films = update(received).where(received.c.job_key == key)
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.FAILED, now, reason)
            db.execute(films.values(decision="", job_key=""))

    def reclaim(self, now: datetime, max_attempts: int, dead: str = "") -> list[str]:
        """See JobStore."""
        lapsed = (
            select(jobs.c.key, jobs.c.lease_token, jobs.c.attempts)
            .where(jobs.c.state == JobState.RUNNING, _is_over(jobs, now, dead))
            .order_by(jobs.c.key)
            .with_for_update(skip_locked=True)
        )
        with engine.writing(self._engine) as db:
            found = db.execute(lapsed).all()
            for key, token, attempts in found:
                spent = attempts >= max_attempts
                state = JobState.FAILED if spent else JobState.RECEIVED
                reason = f"its worker died {attempts} times" if spent else "its worker was lost"
                _leave_running(db, key, token, state, now, reason)
            _free_deliveries(db, _is_over(deliveries, now, dead), now)
        return [row.key for row in found]

    def abandon(self, owners: str, now: datetime) -> None:
        """See JobStore."""
        theirs = jobs.c.lease_owner.startswith(owners, autoescape=True)
        held = select(jobs.c.key, jobs.c.lease_token).where(
            jobs.c.state == JobState.RUNNING, theirs
        )
        with engine.writing(self._engine) as db:
            for key, token in db.execute(held.with_for_update(skip_locked=True)).all():
                _leave_running(db, key, token, JobState.RECEIVED, now, "its worker was stopped")
            sending = deliveries.c.lease_owner.startswith(owners, autoescape=True)
            _free_deliveries(db, sending, now)

    def retry(self, key: str, now: datetime, lost: Collection[str] = ()) -> Job:
        """See JobStore."""
        job = self.job(key)
        with engine.writing(self._engine) as db:
            changed = _restart(db, job.key, now, JobState.FAILED)
            _await_files(db, job.key, lost)
            again = _resend(db, job.key, now, lost)
            changed = changed or again + _remake(db, job, now, lost)
            if not changed:
                raise TransitionError(f"job {key[:12]} is {job.state}: nothing of it has failed")
        return self.job(job.key)

    def retract(
        self, note: Result, destinations: Sequence[str], now: datetime, reason: str
    ) -> bool:
        """See JobStore."""
        same = select(results).where(results.c.sop_instance_uid == note.sop_instance_uid)
        with engine.writing(self._engine) as db:
            new = db.execute(same).first() is None
            if new:
                _refuse_due(db, note.job_key, now, reason)
            _put_result(db, note, destinations, now, every=True)
        return new

    def results(self, key: str) -> list[Result]:
        """See JobStore."""
        return [rows.result_of(row) for row in self._rows(_made_of(key))]

    def deliveries(self, key: str) -> list[Delivery]:
        """See JobStore."""
        query = select(deliveries).where(deliveries.c.job_key == key)
        return [rows.delivery_of(row) for row in self._rows(query.order_by(deliveries.c.position))]

    def claim_deliveries(
        self, destination: str, owner: str, now: datetime, lease_s: float, limit: int
    ) -> list[Parcel]:
        """See JobStore."""
        due = (
            select(deliveries.c.sop_instance_uid)
            .where(
                deliveries.c.state == DeliveryState.DUE,
                deliveries.c.destination == destination,
                deliveries.c.next_attempt_at <= now,
            )
            .order_by(deliveries.c.next_attempt_at, deliveries.c.job_key, deliveries.c.position)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with engine.writing(self._engine) as db:
            uids = [row.sop_instance_uid for row in db.execute(due)]
            rejected = _refuse_rejected(db, uids, now)
            return [
                _start_sending(db, uid, destination, owner, now, lease_s)
                for uid in uids
                if uid not in rejected
            ]

    def renew_deliveries(self, destination: str, owner: str, until: datetime) -> int:
        """See JobStore."""
        mine = update(deliveries).where(
            deliveries.c.destination == destination,
            deliveries.c.state == DeliveryState.SENDING,
            deliveries.c.lease_owner == owner,
        )
        with engine.writing(self._engine) as db:
            return db.execute(mine.values(lease_until=until)).rowcount

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

    def ask(
        self,
        destination: str,
        transaction_uid: str,
        now: datetime,
        again_at: datetime,
        limit: int,
    ) -> list[Parcel]:
        """See JobStore."""
        due = (
            select(deliveries.c.sop_instance_uid)
            .where(
                deliveries.c.state == DeliveryState.DELIVERED,
                deliveries.c.destination == destination,
                deliveries.c.next_attempt_at <= now,
            )
            .order_by(deliveries.c.next_attempt_at, deliveries.c.sop_instance_uid)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with engine.writing(self._engine) as db:
            uids = [row.sop_instance_uid for row in db.execute(due)]
            if uids:
                asked = {"destination": destination, "asked_at": now, "sop_instance_uids": uids}
                db.execute(insert(transactions).values(uid=transaction_uid, **asked))
            return [_asked(db, uid, destination, transaction_uid, again_at) for uid in uids]

    def transaction(self, transaction_uid: str) -> Transaction:
        """See JobStore."""
        found = self._rows(select(transactions).where(transactions.c.uid == transaction_uid))
        if not found:
            raise UnknownKeyError(f"no transaction {transaction_uid!r}")
        uids = found[0]["sop_instance_uids"]
        if uids is None:  # asked before schema 0003: what was last asked in it
            last = deliveries.c.transaction_uid == transaction_uid
            uids = [row["sop_instance_uid"] for row in self._rows(select(deliveries).where(last))]
        return Transaction(
            uid=transaction_uid,
            destination=found[0]["destination"],
            sop_instance_uids=frozenset(uids),
        )

    def forget_transactions(self, before: datetime) -> int:
        """See JobStore."""
        needed = select(deliveries.c.transaction_uid).where(
            deliveries.c.state == DeliveryState.DELIVERED
        )
        old = delete(transactions).where(
            transactions.c.asked_at < before, transactions.c.uid.not_in(needed)
        )
        with engine.writing(self._engine) as db:
            return db.execute(old).rowcount

    def asked_in(self, transaction_uid: str) -> list[Delivery]:
        """See JobStore."""
        found = self._rows(select(transactions).where(transactions.c.uid == transaction_uid))
        if not found:
            return []
        query = select(deliveries).where(*_was_asked_in(found[0])).order_by(deliveries.c.position)
        return [rows.delivery_of(row) for row in self._rows(query)]

    def commit(self, destination: str, uids: Sequence[str], now: datetime) -> int:
        """See JobStore."""
        check_delivery(DeliveryState.DELIVERED, DeliveryState.COMMITTED)
        there = update(deliveries).where(
            deliveries.c.destination == destination,
            deliveries.c.sop_instance_uid.in_(uids),
            deliveries.c.state == DeliveryState.DELIVERED,
        )
        values = {"state": DeliveryState.COMMITTED, "next_attempt_at": now}
        with engine.writing(self._engine) as db:
            return db.execute(there.values(**values)).rowcount

    def send_again(self, asked: Delivery, at: datetime, reason: str, status: str = "") -> None:
        """See JobStore."""
        check_delivery(DeliveryState.DELIVERED, DeliveryState.DUE)
        change = update(deliveries).where(
            deliveries.c.sop_instance_uid == asked.sop_instance_uid,
            deliveries.c.destination == asked.destination,
            deliveries.c.transaction_uid == asked.transaction_uid,
            deliveries.c.state == DeliveryState.DELIVERED,
        )
        values = {"state": DeliveryState.DUE, "next_attempt_at": at, "reason": reason}
        with engine.writing(self._engine) as db:
            db.execute(change.values(**values, status=status))

    def ask_again(self, transaction_uid: str, at: datetime, reason: str) -> None:
        """See JobStore."""
        change = update(deliveries).where(*_is_asked_in(transaction_uid))
        with engine.writing(self._engine) as db:
            db.execute(change.values(next_attempt_at=at, reason=reason))

    def destination(self, name: str) -> DestinationHealth:
        """See JobStore."""
        found = self._rows(select(destinations).where(destinations.c.name == name))
        return rows.destination_of(found[0]) if found else DestinationHealth(name=name)

    def note_destination(self, health: DestinationHealth, now: datetime) -> None:
        """See JobStore."""
        values = {
            "failures": health.failures,
            "retry_at": health.retry_at,
            "reason": health.reason,
        }
        with engine.writing(self._engine) as db:
            _put_destination(db, health.name, now, values)

    def hold(self, name: str, now: datetime) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _put_destination(db, name, now, {"held": True})
            _move_all(db, name, DeliveryState.DUE, DeliveryState.HELD, now)

    def hold_due(self, name: str, now: datetime) -> None:
        """See JobStore."""
        held = select(destinations).where(destinations.c.name == name, destinations.c.held)
        with engine.writing(self._engine) as db:
            # Locked: who releases it waits, and finds what was HELD until then.
            if db.execute(held.with_for_update()).first() is not None:
                _move_all(db, name, DeliveryState.DUE, DeliveryState.HELD, now)

    def release_destination(self, name: str, now: datetime) -> None:
        """See JobStore."""
        well = {"held": False, "failures": 0, "retry_at": None, "reason": ""}
        with engine.writing(self._engine) as db:
            _put_destination(db, name, now, well)
            _move_all(db, name, DeliveryState.HELD, DeliveryState.DUE, now)
            db.execute(_hastened(name, now))

    def move_deliveries(self, old: str, new: str, now: datetime, *, asked: bool = False) -> int:
        """See JobStore."""
        due = {"state": DeliveryState.DUE, "attempts": 0, "status": ""}
        with engine.writing(self._engine) as db:
            number = _move(db, old, new, now, _waits_at(old), **due)
            return number + (_move(db, old, new, now, _asked_at(old)) if asked else 0)

    def drop_deliveries(self, name: str, now: datetime, reason: str) -> int:
        """See JobStore."""
        for state in _WAITING:
            check_delivery(state, DeliveryState.REFUSED)
        values = {"state": DeliveryState.REFUSED, "next_attempt_at": now, "reason": reason}
        refused = update(deliveries).where(*_waits_at(name)).values(**values)
        unasked = update(deliveries).where(*_asked_at(name)).values(transaction_uid="", asked=0)
        with engine.writing(self._engine) as db:
            return sum(db.execute(change).rowcount for change in (refused, unasked))

    def hasten(self, name: str, now: datetime) -> int:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            return db.execute(_hastened(name, now)).rowcount

    def expire(self, name: str, received_before: datetime, now: datetime, reason: str) -> int:
        """See JobStore."""
        check_delivery(DeliveryState.DUE, DeliveryState.EXPIRED)
        old = select(received.c.job_key).where(received.c.received_at < received_before)
        notes = select(results.c.sop_instance_uid).where(results.c.kind == REJECTION_NOTE)
        retried_at = deliveries.c.retried_at
        late = update(deliveries).where(
            deliveries.c.destination == name,
            deliveries.c.state == DeliveryState.DUE,
            deliveries.c.job_key.in_(old),
            or_(retried_at.is_(None), retried_at < received_before),
            deliveries.c.sop_instance_uid.not_in(notes),
        )
        values = {"state": DeliveryState.EXPIRED, "next_attempt_at": now, "reason": reason}
        with engine.writing(self._engine) as db:
            return db.execute(late.values(**values)).rowcount

    def delivery_counts(self) -> list[DeliveryCount]:
        """See JobStore."""
        kinds = (deliveries.c.destination, deliveries.c.state)
        query = select(*kinds, func.count().label("number")).group_by(*kinds).order_by(*kinds)
        return [
            DeliveryCount(
                destination=row["destination"],
                state=DeliveryState(row["state"]),
                number=row["number"],
            )
            for row in self._rows(query)
        ]

    def asked_counts(self) -> dict[str, int]:
        """See JobStore."""
        place = deliveries.c.destination
        query = select(place, func.count().label("number")).where(*_IS_ASKED)
        found = self._rows(query.group_by(place).order_by(place))
        return {row["destination"]: row["number"] for row in found}

    def job_counts(self) -> list[JobCount]:
        """See JobStore."""
        columns = (func.count().label("number"), func.min(jobs.c.created_at).label("oldest"))
        query = select(jobs.c.state, *columns).group_by(jobs.c.state).order_by(jobs.c.state)
        return [
            JobCount(state=JobState(row["state"]), number=row["number"], oldest=row["oldest"])
            for row in self._rows(query)
        ]

    def post(self, name: str, text: str, now: datetime) -> None:
        """See JobStore."""
        same = select(notices).where(notices.c.name == name)
        with engine.writing(self._engine) as db:
            if db.execute(same).first() is None:
                _insert_once(db, notices, {"name": name, "text": text, "at": now}, same)
            db.execute(update(notices).where(notices.c.name == name).values(text=text, at=now))

    def notice(self, name: str) -> Notice | None:
        """See JobStore."""
        found = self._rows(select(notices).where(notices.c.name == name))
        return Notice(at=found[0]["at"], text=found[0]["text"]) if found else None

    def purgeable_received(self, before: datetime, proof: Proof, limit: int) -> list[Received]:
        """See JobStore."""
        query = _purgeable_films(before, proof).order_by(received.c.number).limit(limit)
        return [rows.received_of(row) for row in self._rows(query)]

    def purgeable_results(self, before: datetime, proof: Proof, limit: int) -> list[Result]:
        """See JobStore."""
        query = _purgeable_results(before, proof)
        query = query.order_by(results.c.job_key, results.c.position).limit(limit)
        return [rows.result_of(row) for row in self._rows(query)]

    def purge_received(
        self,
        film: Received,
        before: datetime,
        proof: Proof,
        now: datetime,
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """See JobStore."""
        still = _purgeable_films(before, proof).where(received.c.number == film.number)
        with engine.writing(self._engine) as db:
            # First all rows of its object are ours: the next statement sees what they are then.
            db.execute(_rows_of(film.sop_instance_uid, film.object.digest).with_for_update())
            return _purge(db, received, still, now, partial(remove, film.object))

    def purge_result(
        self,
        result: Result,
        before: datetime,
        proof: Proof,
        now: datetime,
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """See JobStore."""
        mine = results.c.sop_instance_uid == result.sop_instance_uid
        still = _purgeable_results(before, proof).where(mine)
        with engine.writing(self._engine) as db:
            # The same: whoever makes a result due has its job or its delivery in hand.
            for table, key in ((jobs, jobs.c.key), (deliveries, deliveries.c.job_key)):
                db.execute(select(table).where(key == result.job_key).with_for_update())
            return _purge(db, results, still, now, partial(remove, result.object))

    def unknown(self, names: Collection[str]) -> list[str]:
        """See JobStore."""
        with engine.reading(self._engine) as db:
            known = _known(db, names)
        return [name for name in names if name not in known]

    def drop_unknown(self, name: str, drop: Callable[[], bool]) -> bool:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            if db.dialect.name == "postgresql":  # SQLite's one writer is alone as it is
                db.execute(text("LOCK TABLE received, results IN SHARE ROW EXCLUSIVE MODE"))
            return not _known(db, [name]) and drop()

    def free_bytes(self) -> int:
        """See JobStore; SQLite's log of changes lies beside its file."""
        return engine.free_bytes(self._engine, ENDLESS_BYTES)

    def close(self) -> None:
        """See JobStore."""
        self._engine.dispose()

    def _rows(self, query: Select[Any]) -> Sequence[RowMapping]:
        with engine.reading(self._engine) as db:
            return db.execute(query).mappings().all()

    def _leave_sending(
        self, parcel: Parcel, state: DeliveryState, at: datetime, reason: str, status: str
    ) -> bool:
        check_delivery(DeliveryState.SENDING, state)
        mine = update(deliveries).where(
            deliveries.c.sop_instance_uid == parcel.delivery.sop_instance_uid,
            deliveries.c.destination == parcel.delivery.destination,
            deliveries.c.state == DeliveryState.SENDING,
            deliveries.c.attempts == parcel.delivery.attempts,
        )
        values = {"state": state, "next_attempt_at": at, "reason": reason, "status": status}
        with engine.writing(self._engine) as db:
            afresh = {"asked": 0, "transaction_uid": "", "lease_owner": None, "lease_until": None}
            if state is DeliveryState.DELIVERED:
                values["delivered_at"] = at
            change = mine.values(**values, **afresh)
            return db.execute(change).rowcount > 0


def _known(db: Connection, names: Collection[str]) -> set[str]:
    """Which of these objects a film or a result has that is not purged."""
    return {
        row.object_name
        for table in (received, results)
        for row in db.execute(
            select(table.c.object_name).where(
                table.c.object_name.in_(names), table.c.purged_at.is_(None)
            )
        )
    }


def _rows_of(sop_instance_uid: str, digest: str) -> Select[Any]:
    """The film of these bytes, once for each of its senders."""
    return select(received).where(
        received.c.sop_instance_uid == sop_instance_uid, received.c.digest == digest
    )


def _purge(
    db: Connection, table: Table, still: Select[Any], now: datetime, remove: Callable[[], None]
) -> bool:
    """The row's object is gone, if it may still go; last, since the row is locked so long."""
    row = db.execute(still.with_for_update(of=table)).mappings().first()
    if row is None:
        return False
    (key,) = table.primary_key.columns
    db.execute(update(table).where(key == row[key.name]).values(purged_at=now))
    remove()
    return True


def _purgeable_films(before: datetime, proof: Proof) -> Select[Any]:
    """Films whose object nobody needs any more, by whichever sender it came."""
    final, sender = _final_jobs(proof), received.alias()
    its_end = or_(sender.c.job_key == "", sender.c.job_key.in_(final))
    needed = select(sender.c.number).where(
        sender.c.sop_instance_uid == received.c.sop_instance_uid,
        sender.c.digest == received.c.digest,
        sender.c.purged_at.is_(None),
        or_(sender.c.received_at >= before, sender.c.decision == "", not_(its_end)),
    )
    return select(received).where(
        received.c.received_at < before, received.c.purged_at.is_(None), ~needed.exists()
    )


def _purgeable_results(before: datetime, proof: Proof) -> Select[Any]:
    """Results that nobody needs any more."""
    final = _final_jobs(proof).where(jobs.c.updated_at < before)
    return select(results).where(results.c.purged_at.is_(None), results.c.job_key.in_(final))


def _final_jobs(proof: Proof) -> Select[Any]:
    """Keys of jobs that will never need their film or results again."""
    unproven = select(deliveries.c.job_key).where(not_(_is_proven(proof)))
    whole = or_(jobs.c.state == JobState.REJECTED, jobs.c.error == "")
    return select(jobs.c.key).where(jobs.c.state.in_(_ENDED), whole, jobs.c.key.not_in(unproven))


def _is_proven(proof: Proof) -> ColumnElement[bool]:
    """As `Proof.is_of`."""
    state, place = deliveries.c.state, deliveries.c.destination
    committed = state == DeliveryState.COMMITTED
    if not proof.delivered:
        return committed
    is_end = or_(deliveries.c.transaction_uid == "", place.in_(proof.known))
    delivered = state == DeliveryState.DELIVERED
    return or_(committed, delivered & place.not_in(proof.queried) & is_end)


def _put_destination(
    db: Connection, name: str, now: datetime, values: Mapping[str, object]
) -> None:
    """The destination's row has these values, and those it had before."""
    same = select(destinations).where(destinations.c.name == name)
    well = {"name": name, "held": False, "failures": 0, "reason": "", "changed_at": now}
    if db.execute(same).first() is None:
        _insert_once(db, destinations, well, same)
    change = update(destinations).where(destinations.c.name == name)
    db.execute(change.values(**values, changed_at=now))


def _move_all(
    db: Connection, destination: str, old: DeliveryState, new: DeliveryState, now: datetime
) -> None:
    check_delivery(old, new)
    there = update(deliveries).where(
        deliveries.c.destination == destination, deliveries.c.state == old
    )
    db.execute(there.values(state=new, next_attempt_at=now))


def _waits_at(destination: str) -> tuple[ColumnElement[bool], ...]:
    return (deliveries.c.destination == destination, deliveries.c.state.in_(_WAITING))


_IS_ASKED = (deliveries.c.state == DeliveryState.DELIVERED, deliveries.c.transaction_uid != "")


def _asked_at(destination: str) -> tuple[ColumnElement[bool], ...]:
    return (deliveries.c.destination == destination, *_IS_ASKED)


def _move(
    db: Connection,
    old: str,
    new: str,
    now: datetime,
    which: tuple[ColumnElement[bool], ...],
    **values: object,
) -> int:
    """These are at `new`, or no more where `new` gets the same result already; how many."""
    there = select(deliveries.c.sop_instance_uid).where(deliveries.c.destination == new)
    twice = delete(deliveries).where(
        *which, deliveries.c.sop_instance_uid.in_(there.scalar_subquery())
    )
    words = {"destination": new, "reason": f"moved from {old}"}
    afresh = {"next_attempt_at": now, "transaction_uid": "", "asked": 0}
    moved = update(deliveries).where(*which).values(**words, **afresh, **values)
    return sum(db.execute(change).rowcount for change in (twice, moved))


def _hastened(destination: str, now: datetime) -> Update:
    """What waits for an association, not for the answer to itself, is due."""
    return (
        update(deliveries)
        .where(
            deliveries.c.destination == destination,
            deliveries.c.state == DeliveryState.DUE,
            deliveries.c.next_attempt_at > now,
            or_(deliveries.c.status == "", *map(deliveries.c.status.startswith, NOT_ITS_OWN)),
            deliveries.c.status.not_in(FOR_PEOPLE),
        )
        .values(next_attempt_at=now)
    )


def _is_over(leased: Table, now: datetime, dead: str) -> ColumnElement[bool]:
    """The lease ran out, or its owner is known to be dead."""
    ran_out = leased.c.lease_until < now
    if not dead:
        return ran_out
    return or_(ran_out, leased.c.lease_owner.startswith(dead, autoescape=True))


def _insert_once(
    db: Connection, table: Table, values: dict[str, object], same: Select[Any]
) -> None:
    """The row is there, by us or by another process that was first."""
    try:
        with db.begin_nested():
            db.execute(insert(table).values(**values))
    except IntegrityError:
        if db.execute(same).first() is None:
            raise


def _submit(db: Connection, job: NewJob) -> None:
    """The job exists, and promises this too; one of its key that came to nothing begins afresh."""
    same = select(jobs).where(jobs.c.key == job.key)
    if db.execute(same).first() is None:
        _insert_once(db, jobs, rows.job_values(job), same)
    # Locked: a worker that produces it meanwhile sees what it is to promise, or we what it made.
    known = rows.job_of(db.execute(same.with_for_update()).mappings().one())
    had = promises.kept_of(known)
    more = promises.beyond(had, promises.of(job))
    values = _afresh(known.state, job) if known.state in UNDONE else {}
    if more or values:
        values["promised"] = rows.promised_value(promises.in_all(had, job))
        db.execute(update(jobs).where(jobs.c.key == job.key).values(**values))
    if known.state is JobState.REJECTED:  # it may have been PRODUCED before
        more = promises.without_notes(more)
    _bring(db, job.key, had, more, job.created_at)


def _afresh(state: JobState, job: NewJob) -> dict[str, object]:
    """The values of a job that begins again as this one."""
    check_job(state, JobState.RECEIVED)
    values = rows.job_values(job)
    del values["key"], values["lease_token"]  # the tokens of those who failed stay behind it
    return values


def _catch_up(
    db: Connection,
    key: str,
    destinations: Sequence[str],
    kinds: Mapping[str, Collection[str]],
    now: datetime,
) -> None:
    """What was promised since its worker claimed the job, and so not brought, is brought."""
    row = db.execute(select(jobs).where(jobs.c.key == key)).mappings().one()
    promised = rows.job_of(row).promised
    had = {name: tuple(kinds.get(name, promised.get(name, ()))) for name in destinations}
    _bring(db, key, had, promises.beyond(had, promised), now)


def _bring(
    db: Connection, key: str, had: promises.Kinds, more: promises.Kinds, now: datetime
) -> None:
    """What is there of these kinds is due at these destinations; for the rest the job is remade."""
    if not more:
        return
    made = {row["kind"]: row for row in db.execute(_made_of(key)).mappings()}
    wanted = {kind for kinds in more.values() for kind in kinds}
    recalled = REJECTION_NOTE in made
    for row in made.values():
        takers = [name for name, kinds in more.items() if row["kind"] in kinds]
        _add_takers(db, row, takers, now, recalled=recalled)
    gone = {kind for kind in wanted & set(made) if made[kind]["purged_at"] is not None}
    if not recalled and (gone or promises.kinds_new_to(had, more) - set(made)):
        _restart(db, key, now, JobState.PRODUCED)


def _add_takers(
    db: Connection, row: RowMapping, takers: Sequence[str], now: datetime, *, recalled: bool
) -> None:
    """The result is on its way to these too, as far as it can be; to none a second time."""
    result = rows.result_of(row)
    mine = select(deliveries).where(deliveries.c.sop_instance_uid == result.sop_instance_uid)
    there = {found["destination"]: found for found in db.execute(mine).mappings()}
    faults = [d["reason"] for d in there.values() if d["state"] == DeliveryState.QUARANTINED]
    state, reason = promises.first_step(
        recalled=recalled, purged=row["purged_at"] is not None, faults=faults
    )
    position = row["position"] * _MOST_DESTINATIONS + len(there)
    for order, destination in enumerate(name for name in takers if name not in there):
        _add_delivery(
            db,
            result,
            destination,
            position + order,
            state=state,
            reason=reason,
            at=now,
            again=True,
        )


def _is_undone(db: Connection, key: str) -> bool:
    """Whether the job came to nothing; if not, it does not before this transaction's end."""
    query = select(jobs.c.state).where(jobs.c.key == key).with_for_update(read=True)
    found = db.execute(query).first()
    return found is not None and found.state in UNDONE


def _its_job(key: str) -> Select[Any]:
    """The job of that key, if it is made of the film that is asked about."""
    same = ("sop_instance_uid", "digest", "calling_ae_title")
    made_of_it = (jobs.c[name] == received.c[name] for name in same)
    return select(jobs.c.key).where(jobs.c.key == key, *made_of_it).correlate(received)


def _free_joined_films(db: Connection, key: str) -> None:
    """Films that came to the job while it was another's have no decision any more."""
    joined = update(received).where(received.c.job_key == key, received.c.joined)
    db.execute(joined.values(decision="", job_key=""))


def _put_result(
    db: Connection,
    result: Result,
    destinations: Sequence[str],
    now: datetime,
    quarantined: str = "",
    *,
    again: bool = False,
    every: bool = False,
) -> None:
    """The result is there, for the first time or made again under the same UID.

    A new one of a job that is at work `again` is as old as that, not as its film. Of one that is
    as it was only what waited for its file is due, unless `every` delivery that failed is to be.
    """
    its_job = results.c.job_key == result.job_key
    mine = its_job & (results.c.sop_instance_uid == result.sop_instance_uid)
    known = db.execute(select(results).where(mine)).mappings().first()
    if known is not None:
        values = rows.object_values(result.object)
        db.execute(update(results).where(mine).values(**values, purged_at=None))
        kept = known["purged_at"] is None and known["digest"] == result.object.digest
        only_waiting = kept and not (every or quarantined)
        _requeue(db, result.sop_instance_uid, now, quarantined, only_waiting=only_waiting)
        return
    earlier = db.execute(select(func.count()).select_from(results).where(its_job)).scalar_one()
    _add_result(db, result, earlier, destinations, now, quarantined, again=again)


def _requeue(
    db: Connection, uid: str, now: datetime, quarantined: str, *, only_waiting: bool
) -> None:
    """Of a result made again what failed is DUE, or all that waits QUARANTINED."""
    new = DeliveryState.QUARANTINED if quarantined else DeliveryState.DUE
    old = {*_RETRIED, *(_WAITING if quarantined else ())} - {new}
    for state in old:
        check_delivery(state, new)
    waiting = update(deliveries).where(
        deliveries.c.sop_instance_uid == uid, deliveries.c.state.in_(old)
    )
    if only_waiting:
        waiting = waiting.where(deliveries.c.reason.in_(promises.WAITS_FOR_FILE))
    db.execute(waiting.values(state=new, next_attempt_at=now, reason=quarantined, retried_at=now))


def _add_result(
    db: Connection,
    result: Result,
    position: int,
    destinations: Sequence[str],
    now: datetime,
    quarantined: str = "",
    *,
    again: bool = False,
) -> None:
    """The result is there, and DUE, or QUARANTINED for that reason, at each destination."""
    state = DeliveryState.QUARANTINED if quarantined else DeliveryState.DUE
    db.execute(insert(results).values(**rows.result_values(result), position=position))
    for order, destination in enumerate(destinations, position * _MOST_DESTINATIONS):
        _add_delivery(
            db, result, destination, order, state=state, reason=quarantined, at=now, again=again
        )


def _add_delivery(
    db: Connection,
    result: Result,
    destination: str,
    position: int,
    *,
    state: DeliveryState,
    reason: str,
    at: datetime,
    again: bool,
) -> None:
    """The result is on its way there; its age counts from now where it is so `again`."""
    db.execute(
        insert(deliveries).values(
            sop_instance_uid=result.sop_instance_uid,
            destination=destination,
            job_key=result.job_key,
            position=position,
            state=state,
            attempts=0,
            next_attempt_at=at,
            reason=reason,
            retried_at=at if again else None,
        )
    )


def _refuse_due(db: Connection, key: str, now: datetime, reason: str) -> None:
    """What of a job was not sent yet never will be."""
    for state in _WAITING:
        check_delivery(state, DeliveryState.REFUSED)
    due = update(deliveries).where(deliveries.c.job_key == key, deliveries.c.state.in_(_WAITING))
    db.execute(due.values(state=DeliveryState.REFUSED, next_attempt_at=now, reason=reason))


def _refuse_rejected(db: Connection, uids: Sequence[str], now: datetime) -> set[str]:
    """Those of the results that a note of their job rejects; what is due of them is refused.

    Asked whenever results are to be sent: however they came to be due again (an answer that was
    late, a commitment that failed, an operator), none is sent after its model was recalled.
    """
    note = results.alias()
    rejected = (
        select(results.c.sop_instance_uid)
        .join(note, note.c.job_key == results.c.job_key)
        .where(
            results.c.sop_instance_uid.in_(uids),
            results.c.kind != REJECTION_NOTE,
            note.c.kind == REJECTION_NOTE,
        )
    )
    found = {row.sop_instance_uid for row in db.execute(rejected)}
    if found:
        due = update(deliveries).where(
            deliveries.c.sop_instance_uid.in_(found), deliveries.c.state == DeliveryState.DUE
        )
        refused = {"state": DeliveryState.REFUSED, "next_attempt_at": now, "reason": RECALLED}
        db.execute(due.values(**refused))
    return found


def _free_deliveries(db: Connection, which: ColumnElement[bool], now: datetime) -> None:
    held = update(deliveries).where(deliveries.c.state == DeliveryState.SENDING, which)
    db.execute(
        held.values(
            state=DeliveryState.DUE,
            next_attempt_at=now,
            reason="its sender was lost",
            lease_owner=None,
            lease_until=None,
        )
    )


def _start_sending(
    db: Connection, uid: str, destination: str, owner: str, now: datetime, lease_s: float
) -> Parcel:
    change = (
        update(deliveries)
        .where(
            deliveries.c.sop_instance_uid == uid,
            deliveries.c.destination == destination,
            deliveries.c.state == DeliveryState.DUE,
        )
        .values(
            state=DeliveryState.SENDING,
            attempts=deliveries.c.attempts + 1,
            lease_owner=owner,
            lease_until=now + timedelta(seconds=lease_s),
        )
        .returning(deliveries)
    )
    return _parcel(db, rows.delivery_of(db.execute(change).mappings().one()))


def _parcel(db: Connection, delivery: Delivery) -> Parcel:
    query = select(results).where(results.c.sop_instance_uid == delivery.sop_instance_uid)
    return Parcel(delivery=delivery, result=rows.result_of(db.execute(query).mappings().one()))


def _asked(
    db: Connection, uid: str, destination: str, transaction_uid: str, again_at: datetime
) -> Parcel:
    change = (
        update(deliveries)
        .where(deliveries.c.sop_instance_uid == uid, deliveries.c.destination == destination)
        .values(
            transaction_uid=transaction_uid,
            asked=deliveries.c.asked + 1,
            next_attempt_at=again_at,
        )
        .returning(deliveries)
    )
    return _parcel(db, rows.delivery_of(db.execute(change).mappings().one()))


def _is_asked_in(transaction_uid: str) -> tuple[ColumnElement[bool], ...]:
    return (
        deliveries.c.transaction_uid == transaction_uid,
        deliveries.c.state == DeliveryState.DELIVERED,
    )


def _was_asked_in(transaction: RowMapping) -> tuple[ColumnElement[bool], ...]:
    """Last asked in it, or later too but not sent since.

    Before schema 0003 it is not known what it asked about, before 0004 when results arrived.
    """
    uids = transaction["sop_instance_uids"] or ()
    last = deliveries.c.transaction_uid == transaction["uid"]
    earlier = (
        deliveries.c.sop_instance_uid.in_(uids)
        & (deliveries.c.destination == transaction["destination"])
        & (deliveries.c.delivered_at <= transaction["asked_at"])
    )
    return deliveries.c.state == DeliveryState.DELIVERED, or_(last, earlier)


def _restart(db: Connection, key: str, now: datetime, *old: JobState) -> int:
    """The job, if it is in one of these states, waits afresh; how many did.

    What was left out of a PRODUCED one is to be known to who makes it again.
    """
    for state in old:
        check_job(state, JobState.RECEIVED)
    ended = update(jobs).where(jobs.c.key == key, jobs.c.state.in_(old))
    error = case((jobs.c.state == JobState.PRODUCED, jobs.c.error), else_="")
    values = {"state": JobState.RECEIVED, "attempts": 0, "error": error, "updated_at": now}
    return db.execute(ended.values(**values)).rowcount


def _remake(db: Connection, job: Job, now: datetime, lost: Collection[str]) -> int:
    """The job waits afresh if something was left out, or a lost result of it has yet to arrive.

    Returns how many did.
    """
    wanted = select(deliveries.c.sop_instance_uid).where(
        deliveries.c.job_key == job.key,
        deliveries.c.sop_instance_uid.in_(lost),
        deliveries.c.state.not_in(_ARRIVED),
    )
    recalled = db.execute(_notes_of(job.key)).first() is not None
    left_out = job.state is JobState.PRODUCED and job.error != ""
    if recalled or not (left_out or db.execute(wanted).first() is not None):
        return 0
    return _restart(db, job.key, now, *_ENDED)


def _await_files(db: Connection, key: str, lost: Collection[str]) -> None:
    """What failed of these results is due as soon as they are made again."""
    failed = update(deliveries).where(
        deliveries.c.job_key == key,
        deliveries.c.sop_instance_uid.in_(lost),
        deliveries.c.state.in_(_RETRIED),
    )
    db.execute(failed.values(reason=promises.LOST))


def _resend(db: Connection, key: str, now: datetime, lost: Collection[str]) -> int:
    """The failed deliveries of a job are due, but those of lost results; how many are.

    Of a recalled job they are its note's alone.
    """
    for state in _RETRIED:
        check_delivery(state, DeliveryState.DUE)
    failed = update(deliveries).where(
        deliveries.c.job_key == key,
        deliveries.c.state.in_(_RETRIED),
        deliveries.c.sop_instance_uid.not_in(lost),
    )
    notes = _notes_of(key)
    if db.execute(notes).first() is not None:
        failed = failed.where(deliveries.c.sop_instance_uid.in_(notes))
    values = {"state": DeliveryState.DUE, "next_attempt_at": now, "reason": ""}
    return db.execute(failed.values(**values, retried_at=now)).rowcount


def _made_of(key: str) -> Select[Any]:
    """The results of a job, in the order they were produced."""
    return select(results).where(results.c.job_key == key).order_by(results.c.position)


def _notes_of(key: str) -> Select[Any]:
    """What rejects the results of a job."""
    return select(results.c.sop_instance_uid).where(
        results.c.job_key == key, results.c.kind == REJECTION_NOTE
    )


def _leave_running(
    db: Connection,
    key: str,
    token: int,
    state: JobState,
    now: datetime,
    reason: str,
    **more: object,
) -> None:
    check_job(JobState.RUNNING, state)
    values = {"state": state, "error": reason, "updated_at": now, **more}
    _guarded(db, key, token, **values, lease_owner=None, lease_until=None)
    if state in UNDONE:
        _free_joined_films(db, key)


def _guarded(db: Connection, key: str, token: int, **values: object) -> None:
    """The job changes only if it still runs under this token."""
    change = update(jobs).where(
        jobs.c.key == key, jobs.c.lease_token == token, jobs.c.state == JobState.RUNNING
    )
    if db.execute(change.values(**values)).rowcount == 0:
        raise LeaseLostError(f"job {key[:12]} is no longer held under token {token}")
