"""Jobs: who works on which, under leases with fencing tokens."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, case, func, or_, select, update

from storage import engine, rows
from storage.errors import LeaseLostError, UnknownKeyError
from storage.jobs import Job, JobCount
from storage.schema import deliveries, jobs, received
from storage.sql.database import Database
from storage.states import UNDONE, DeliveryState, JobState, check_job


class Jobs(Database):
    """Jobs and their leases."""

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

    def job_counts(self) -> list[JobCount]:
        """See JobStore."""
        columns = (func.count().label("number"), func.min(jobs.c.created_at).label("oldest"))
        query = select(jobs.c.state, *columns).group_by(jobs.c.state).order_by(jobs.c.state)
        return [
            JobCount(state=JobState(row["state"]), number=row["number"], oldest=row["oldest"])
            for row in self._rows(query)
        ]

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

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            leave_running(db, key, token, JobState.FAILED, now, reason)

    def release(
        self, key: str, token: int, now: datetime, reason: str, *, counted: bool = False
    ) -> None:
        """See JobStore."""
        attempts = jobs.c.attempts - (0 if counted else 1)
        with engine.writing(self._engine) as db:
            leave_running(db, key, token, JobState.RECEIVED, now, reason, attempts=attempts)

    def reroute(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        films = update(received).where(received.c.job_key == key)
        with engine.writing(self._engine) as db:
            leave_running(db, key, token, JobState.FAILED, now, reason)
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
                leave_running(db, key, token, state, now, reason)
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
                why, attempts = "its worker was stopped", jobs.c.attempts - 1
                leave_running(db, key, token, JobState.RECEIVED, now, why, attempts=attempts)
            sending = deliveries.c.lease_owner.startswith(owners, autoescape=True)
            _free_deliveries(db, sending, now)


def leave_running(
    db: Connection,
    key: str,
    token: int,
    state: JobState,
    now: datetime,
    reason: str,
    **more: object,
) -> None:
    """The job leaves its worker, if it still runs under this token.

    Raises:
        LeaseLostError: it does not.
    """
    check_job(JobState.RUNNING, state)
    values = {"state": state, "error": reason, "updated_at": now, **more}
    _guarded(db, key, token, **values, lease_owner=None, lease_until=None)
    if state in UNDONE:
        _free_joined_films(db, key, state)


def _guarded(db: Connection, key: str, token: int, **values: object) -> None:
    """The job changes only if it still runs under this token."""
    change = update(jobs).where(
        jobs.c.key == key, jobs.c.lease_token == token, jobs.c.state == JobState.RUNNING
    )
    if db.execute(change.values(**values)).rowcount == 0:
        raise LeaseLostError(f"job {key[:12]} is no longer held under token {token}")


def restart(db: Connection, key: str, now: datetime, *old: JobState) -> int:
    """The job, if it is in one of these states, waits afresh; how many did.

    What was left out of a PRODUCED one is to be known to who makes it again.
    """
    for state in old:
        check_job(state, JobState.RECEIVED)
    ended = update(jobs).where(jobs.c.key == key, jobs.c.state.in_(old))
    error = case((jobs.c.state == JobState.PRODUCED, jobs.c.error), else_="")
    values = {"state": JobState.RECEIVED, "attempts": 0, "error": error, "updated_at": now}
    return db.execute(ended.values(**values)).rowcount


def is_undone(db: Connection, key: str) -> bool:
    """Whether the job came to nothing; if not, it does not before this transaction's end."""
    query = select(jobs.c.state).where(jobs.c.key == key).with_for_update(read=True)
    found = db.execute(query).first()
    return found is not None and found.state in UNDONE


def made_of_it(key: str) -> Select[Any]:
    """The job of that key, if it is made of the film that is asked about."""
    return made_of_film().where(jobs.c.key == key)


def made_of_film() -> Select[Any]:
    """The jobs that are made of the film that is asked about."""
    return select(jobs.c.key).where(*is_of_film()).correlate(received)


def is_of_film() -> list[ColumnElement[bool]]:
    """Of a job and a film: the one is made of the other."""
    same = ("sop_instance_uid", "digest", "calling_ae_title")
    return [jobs.c[name] == received.c[name] for name in same]


def _free_joined_films(db: Connection, key: str, state: JobState) -> None:
    """Films that joined the job have no decision any more: no verdict on its own is theirs."""
    joined = update(received).where(received.c.job_key == key, received.c.joined)
    if state is JobState.REJECTED:
        joined = joined.where(~made_of_it(key).exists())
    db.execute(joined.values(decision="", job_key=""))


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


def _is_over(leased: Table, now: datetime, dead: str) -> ColumnElement[bool]:
    """The lease ran out, or its owner is known to be dead."""
    ran_out = leased.c.lease_until < now
    if not dead:
        return ran_out
    return or_(ran_out, leased.c.lease_owner.startswith(dead, autoescape=True))
