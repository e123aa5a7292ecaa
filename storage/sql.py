"""The job store in SQLite or PostgreSQL. The contract is that of storage.store."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from storage import engine, migrate
from storage.errors import LeaseLostError, TransitionError, UnknownKeyError
from storage.jobs import (
    Decision,
    Delivery,
    Job,
    Lease,
    NewJob,
    NewReceived,
    ObjectRef,
    Parcel,
    Received,
    Result,
)
from storage.schema import deliveries, jobs, received, results
from storage.states import DELIVERY_TRANSITIONS, DeliveryState, JobState, check_job

_RETRIED = (DeliveryState.REFUSED, DeliveryState.QUARANTINED)


class SqlJobStore:
    """Rows by SQLAlchemy. The one difference between the databases is how a claim locks:
    `FOR UPDATE SKIP LOCKED` on PostgreSQL, which SQLite, where one writer is alone, leaves out.
    """

    def __init__(self, url: str) -> None:
        """Open the store.

        Raises:
            StoreMismatchError: the schema is not this version's; `storage.migrate.up` brings it there.
            StoreUnavailableError: the database does not answer.
        """
        self._engine = engine.connect(url)
        migrate.demand_head(self._engine)

    def receive(self, new: NewReceived) -> Received:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            known = self._received_as(db, new)
            if known is not None:
                return known
            try:
                with db.begin_nested():
                    db.execute(insert(received).values(**_received_values(new)))
            except IntegrityError:
                pass  # another process was first, between our look and our write
            found = self._received_as(db, new)
        if found is None:
            raise UnknownKeyError(f"received instance {new.sop_instance_uid} vanished")
        return found

    def unrouted(self, limit: int) -> list[Received]:
        """See JobStore."""
        query = select(received).where(received.c.decision == "").order_by(received.c.number)
        return [_received(row) for row in self._rows(query.limit(limit))]

    def received(self, limit: int, sop_instance_uid: str = "") -> list[Received]:
        """See JobStore."""
        query = select(received).order_by(received.c.number.desc()).limit(limit)
        if sop_instance_uid:
            query = query.where(received.c.sop_instance_uid == sop_instance_uid)
        return [_received(row) for row in self._rows(query)]

    def route(self, number: int, decision: Decision, job: NewJob | None) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            if job is not None:
                self._add_job(db, job)
            change = update(received).where(received.c.number == number)
            values = {"decision": decision.text, "job_key": decision.job_key}
            if db.execute(change.values(**values)).rowcount == 0:
                raise UnknownKeyError(f"no received instance {number}")

    def job(self, key: str) -> Job:
        """See JobStore."""
        query = select(jobs).where(jobs.c.key.startswith(key, autoescape=True)).limit(2)
        found = self._rows(query)
        if not key or not found:
            raise UnknownKeyError(f"no job {key!r}")
        if len(found) > 1:
            raise UnknownKeyError(f"more than one job begins with {key!r}")
        return _job(found[0])

    def jobs(
        self, limit: int, state: JobState | None = None, sop_instance_uid: str = ""
    ) -> list[Job]:
        """See JobStore."""
        query = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.key).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if sop_instance_uid:
            query = query.where(jobs.c.sop_instance_uid == sop_instance_uid)
        return [_job(row) for row in self._rows(query)]

    def claim(self, owner: str, now: datetime, lease_s: float) -> Job | None:
        """See JobStore."""
        waiting = (
            select(jobs)
            .where(jobs.c.state == JobState.RECEIVED)
            .order_by(jobs.c.created_at, jobs.c.key)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with engine.writing(self._engine) as db:
            row = db.execute(waiting).mappings().first()
            if row is None:
                return None
            change = (
                update(jobs)
                .where(jobs.c.key == row["key"])
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
            return _job(db.execute(change).mappings().one())

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
    ) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.PRODUCED, now, "")
            for position, result in enumerate(results):
                self._add_result(db, result, position, destinations, now)

    def reject(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.REJECTED, now, reason)

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.FAILED, now, reason)

    def release(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _leave_running(db, key, token, JobState.RECEIVED, now, reason)

    def reclaim(self, now: datetime, max_attempts: int) -> list[str]:
        """See JobStore."""
        lapsed = (
            select(jobs.c.key, jobs.c.lease_token, jobs.c.attempts)
            .where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now)
            .with_for_update(skip_locked=True)
        )
        with engine.writing(self._engine) as db:
            rows = db.execute(lapsed).all()
            for key, token, attempts in rows:
                spent = attempts >= max_attempts
                state = JobState.FAILED if spent else JobState.RECEIVED
                reason = f"its worker died {attempts} times" if spent else "its worker was lost"
                _leave_running(db, key, token, state, now, reason)
            self._reclaim_deliveries(db, now)
        return [row.key for row in rows]

    def retry(self, key: str, now: datetime) -> Job:
        """See JobStore."""
        job = self.job(key)
        with engine.writing(self._engine) as db:
            if job.state is JobState.FAILED:
                check_job(job.state, JobState.RECEIVED)
                again = update(jobs).where(jobs.c.key == key, jobs.c.state == job.state)
                values = {"state": JobState.RECEIVED, "attempts": 0, "error": "", "updated_at": now}
                changed = db.execute(again.values(**values)).rowcount
            else:
                due = update(deliveries).where(
                    deliveries.c.job_key == key, deliveries.c.state.in_(_RETRIED)
                )
                values = {"state": DeliveryState.DUE, "next_attempt_at": now, "reason": ""}
                changed = db.execute(due.values(**values)).rowcount
            if not changed:
                raise TransitionError(f"job {key[:12]} is {job.state}: nothing of it has failed")
        return self.job(key)

    def results(self, key: str) -> list[Result]:
        """See JobStore."""
        query = select(results).where(results.c.job_key == key).order_by(results.c.position)
        return [_result(row) for row in self._rows(query)]

    def deliveries(self, key: str) -> list[Delivery]:
        """See JobStore."""
        query = select(deliveries).where(deliveries.c.job_key == key)
        return [_delivery(row) for row in self._rows(query.order_by(deliveries.c.position))]

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
            return [self._start_sending(db, uid, destination, owner, now, lease_s) for uid in uids]

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
        self._engine.dispose()

    def _rows(self, query: Select[Any]) -> Sequence[RowMapping]:
        with engine.reading(self._engine) as db:
            return db.execute(query).mappings().all()

    @staticmethod
    def _received_as(db: Connection, new: NewReceived) -> Received | None:
        query = select(received).where(
            received.c.sop_instance_uid == new.sop_instance_uid,
            received.c.digest == new.object.digest,
        )
        row = db.execute(query).mappings().first()
        return None if row is None else _received(row)

    @staticmethod
    def _add_job(db: Connection, job: NewJob) -> None:
        known = db.execute(select(jobs.c.key).where(jobs.c.key == job.key)).first()
        if known is None:
            db.execute(insert(jobs).values(**_job_values(job)))

    @staticmethod
    def _add_result(
        db: Connection, result: Result, position: int, destinations: Sequence[str], now: datetime
    ) -> None:
        db.execute(insert(results).values(**_result_values(result), position=position))
        for order, destination in enumerate(destinations):
            db.execute(
                insert(deliveries).values(
                    sop_instance_uid=result.sop_instance_uid,
                    destination=destination,
                    job_key=result.job_key,
                    position=position * len(destinations) + order,
                    state=DeliveryState.DUE,
                    attempts=0,
                    next_attempt_at=now,
                    reason="",
                )
            )

    @staticmethod
    def _reclaim_deliveries(db: Connection, now: datetime) -> None:
        lapsed = update(deliveries).where(
            deliveries.c.state == DeliveryState.SENDING, deliveries.c.lease_until < now
        )
        db.execute(
            lapsed.values(
                state=DeliveryState.DUE,
                next_attempt_at=now,
                reason="its sender was lost",
                lease_owner=None,
                lease_until=None,
            )
        )

    @staticmethod
    def _start_sending(
        db: Connection, uid: str, destination: str, owner: str, now: datetime, lease_s: float
    ) -> Parcel:
        change = (
            update(deliveries)
            .where(deliveries.c.sop_instance_uid == uid, deliveries.c.destination == destination)
            .values(
                state=DeliveryState.SENDING,
                attempts=deliveries.c.attempts + 1,
                lease_owner=owner,
                lease_until=now + timedelta(seconds=lease_s),
            )
            .returning(deliveries)
        )
        delivery = _delivery(db.execute(change).mappings().one())
        query = select(results).where(results.c.sop_instance_uid == uid)
        return Parcel(delivery=delivery, result=_result(db.execute(query).mappings().one()))

    def _leave_sending(
        self, parcel: Parcel, state: DeliveryState, at: datetime, reason: str
    ) -> None:
        old = [before for before, after in DELIVERY_TRANSITIONS if after is state]
        mine = update(deliveries).where(
            deliveries.c.sop_instance_uid == parcel.delivery.sop_instance_uid,
            deliveries.c.destination == parcel.delivery.destination,
            deliveries.c.state == DeliveryState.SENDING,
            deliveries.c.state.in_(old),
            deliveries.c.attempts == parcel.delivery.attempts,
        )
        values = {"state": state, "next_attempt_at": at, "reason": reason}
        with engine.writing(self._engine) as db:
            db.execute(mine.values(**values, lease_owner=None, lease_until=None))


def _leave_running(
    db: Connection, key: str, token: int, state: JobState, now: datetime, reason: str
) -> None:
    check_job(JobState.RUNNING, state)
    values = {"state": state, "error": reason, "updated_at": now}
    _guarded(db, key, token, **values, lease_owner=None, lease_until=None)


def _guarded(db: Connection, key: str, token: int, **values: object) -> None:
    """The job changes only if it still runs under this token."""
    change = update(jobs).where(
        jobs.c.key == key, jobs.c.lease_token == token, jobs.c.state == JobState.RUNNING
    )
    if db.execute(change.values(**values)).rowcount == 0:
        raise LeaseLostError(f"job {key[:12]} is no longer held under token {token}")


def _object_values(ref: ObjectRef) -> dict[str, object]:
    return {"object_name": ref.name, "digest": ref.digest, "size_bytes": ref.size_bytes}


def _object(row: RowMapping) -> ObjectRef:
    return ObjectRef(name=row["object_name"], digest=row["digest"], size_bytes=row["size_bytes"])


def _plain(value: object, table: Table) -> dict[str, object]:
    """The fields of a dataclass that are columns of the same name."""
    return {c.name: getattr(value, c.name) for c in table.columns if hasattr(value, c.name)}


def _picked(row: RowMapping, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _received_values(new: NewReceived) -> dict[str, object]:
    return {**_plain(new, received), **_object_values(new.object), "decision": "", "job_key": ""}


def _received(row: RowMapping) -> Received:
    names = ("number", "sop_class_uid", "sop_instance_uid", "transfer_syntax_uid")
    more = ("calling_ae_title", "address", "received_at", "decision", "job_key")
    return Received(**_picked(row, *names, *more), object=_object(row))


def _job_values(job: NewJob) -> dict[str, object]:
    return {
        **_plain(job, jobs),
        **_object_values(job.object),
        "results": list(job.results),
        "destinations": list(job.destinations),
        "state": JobState.RECEIVED,
        "attempts": 0,
        "error": "",
        "updated_at": job.created_at,
        "lease_token": 0,
    }


def _job(row: RowMapping) -> Job:
    names = ("key", "sop_instance_uid", "identity_digest", "calling_ae_title", "rule", "target")
    more = ("model_digest", "mode", "seed", "supersedes", "created_at", "attempts", "error")
    return Job(
        **_picked(row, *names, *more, "updated_at"),
        object=_object(row),
        results=tuple(row["results"]),
        destinations=tuple(row["destinations"]),
        state=JobState(row["state"]),
        lease=_lease(row),
    )


def _lease(row: RowMapping) -> Lease | None:
    if row["lease_until"] is None:
        return None
    return Lease(owner=row["lease_owner"], token=row["lease_token"], until=row["lease_until"])


def _result_values(result: Result) -> dict[str, object]:
    return {**_plain(result, results), **_object_values(result.object)}


def _result(row: RowMapping) -> Result:
    names = ("job_key", "kind", "sop_class_uid", "sop_instance_uid", "series_instance_uid")
    return Result(**_picked(row, *names), object=_object(row))


def _delivery(row: RowMapping) -> Delivery:
    names = ("job_key", "sop_instance_uid", "destination", "attempts", "next_attempt_at", "reason")
    return Delivery(**_picked(row, *names), state=DeliveryState(row["state"]))
