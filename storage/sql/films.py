"""Films: received, decided about, and put to their jobs."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Select,
    and_,
    func,
    or_,
    select,
    tuple_,
    union,
    update,
)

from storage import engine, promises, rows
from storage.errors import UnknownKeyError
from storage.jobs import (
    Decision,
    NewJob,
    NewReceived,
    Received,
    arrival,
    come_again,
    not_held_back,
)
from storage.schema import deliveries, jobs, received, results
from storage.sql.database import IS_ASKED, Database, arrived_at, insert_once
from storage.sql.jobs import is_of_film, is_undone, made_of_it
from storage.sql.production import bring
from storage.states import LOST, OPEN, UNDONE, WAITING, DeliveryState, JobState, check_job
from storage.words import OWED


class Films(Database):
    """Received instances and what was decided about them."""

    def receive(self, new: NewReceived) -> Received:
        """See JobStore."""
        same = rows_of(new.sop_instance_uid, new.object.digest).where(
            received.c.calling_ae_title == new.calling_ae_title
        )
        with engine.writing(self._engine) as db:
            known = db.execute(same).mappings().first()
            # Jobs are locked before films, wherever both are.
            undone = known is not None and is_undone(db, known["job_key"])
            # Of any sender: whoever purges its object waits, or is waited for.
            db.execute(rows_of(new.sop_instance_uid, new.object.digest).with_for_update())
            if known is None:
                insert_once(db, received, rows.received_values(new), same)
            else:
                no_job = {"job_key": ""} if undone else {}
                again = update(received).where(received.c.number == known["number"])
                at = arrival(new.received_at, rows.received_of(known).arrived_at)
                anew = {"purged_at": None, "decision": "", "arrived_at": at}
                db.execute(again.values(**anew, **no_job))
            return rows.received_of(db.execute(same).mappings().one())

    def unrouted(self, limit: int) -> list[Received]:
        """See JobStore."""
        query = select(received).where(received.c.decision == "")
        query = query.order_by(arrived_at(), received.c.number).limit(limit)
        return [rows.received_of(row) for row in self._rows(query)]

    def received(
        self, limit: int, sop_instance_uid: str = "", since: datetime | None = None
    ) -> list[Received]:
        """See JobStore."""
        query = select(received).order_by(received.c.number.desc()).limit(limit)
        if sop_instance_uid:
            query = query.where(received.c.sop_instance_uid == sop_instance_uid)
        if since is not None:
            query = query.where(arrived_at() >= since)
        return [rows.received_of(row) for row in self._rows(query)]

    def unsettled(self, since: datetime) -> list[Received]:
        """See JobStore."""
        query = select(received).where(received.c.number.in_(_unsettled(since)))
        return [
            rows.received_of(row) for row in self._rows(query.order_by(received.c.number.desc()))
        ]

    def owed(self) -> list[Received]:
        """See JobStore."""
        return [rows.received_of(row) for row in self._rows(select(received).where(_waits()))]

    def decide_again(self, now: datetime, among: AbstractSet[int] | None = None) -> int:
        """See JobStore."""
        is_overtaken = _overtaken(received).exists().label("is_overtaken")
        query = select(received, is_overtaken).where(_waits()).with_for_update()
        with engine.writing(self._engine) as db:
            found = db.execute(query).mappings().all()
            overtaken = {row["number"] for row in found if row["is_overtaken"]}
            films = not_held_back(map(rows.received_of, found), overtaken, among)
            for film in come_again(films, now):
                again = update(received).where(received.c.number == film.number)
                db.execute(again.values(decision="", arrived_at=film.arrived_at))
            return len(films)

    def waiting(self) -> int:
        """See JobStore."""
        unrouted = select(func.count().label("number")).where(received.c.decision == "")
        unfinished = select(func.count().label("number")).where(jobs.c.state.in_(OPEN))
        return sum(int(self._rows(query)[0]["number"]) for query in (unrouted, unfinished))

    def route(
        self,
        number: int,
        decision: Decision,
        job: NewJob | None,
        arrived_at: datetime | None = None,
    ) -> bool:
        """See JobStore."""
        its_row = received.c.number == number
        change = update(received).where(its_row, *_still(arrived_at))
        not_begun = made_of_it(decision.job_key).where(jobs.c.state != JobState.RUNNING)
        joined = ~not_begun.exists()
        values = {"decision": decision.text, "job_key": decision.job_key, "joined": joined}
        with engine.writing(self._engine) as db, db.begin_nested() as both:
            if job is not None:
                _submit(db, job)  # locked before its film
            elif is_undone(db, decision.job_key):
                return False
            if db.execute(change.values(**values)).rowcount == 1:
                return True
            if db.execute(select(received.c.number).where(its_row)).first() is None:
                raise UnknownKeyError(f"no received instance {number}")
            both.rollback()
            return False


def rows_of(sop_instance_uid: str, digest: str) -> Select[Any]:
    """The film of these bytes, once for each of its senders."""
    return select(received).where(
        received.c.sop_instance_uid == sop_instance_uid, received.c.digest == digest
    )


def _still(at: datetime | None) -> list[ColumnElement[bool]]:
    """Of a film: it has not come again since then, nor been decided about."""
    return [] if at is None else [received.c.decision == "", arrived_at() == at]


def _submit(db: Connection, job: NewJob) -> None:
    """The job exists, and promises this too; one of its key that came to nothing begins afresh."""
    same = select(jobs).where(jobs.c.key == job.key)
    if db.execute(same).first() is None:
        insert_once(db, jobs, rows.job_values(job), same)
    # Locked: a worker that produces it meanwhile sees what it is to promise, or we what it made.
    known = rows.job_of(db.execute(same.with_for_update()).mappings().one())
    had = promises.kept_of(known)
    more = promises.beyond(had, promises.of(job))
    values = _afresh(db, known.state, job) if known.state in UNDONE else {}
    if more or values:
        values["promised"] = rows.promised_value(promises.in_all(had, job))
        db.execute(update(jobs).where(jobs.c.key == job.key).values(**values))
    if known.state is JobState.REJECTED:  # it may have been PRODUCED before
        more = promises.without_notes(more)
    bring(db, job.key, had, more, job.created_at)


def _afresh(db: Connection, state: JobState, job: NewJob) -> dict[str, object]:
    """The values of a job that begins again as this one."""
    check_job(state, JobState.RECEIVED)
    values = rows.job_values(job)
    del values["key"], values["lease_token"]  # the tokens of those who failed stay behind it
    its = (results.c.job_key == job.key, results.c.kind != promises.NOTE)
    if db.execute(select(results.c.sop_instance_uid).where(*its)).first() is not None:
        del values["created_at"]  # which is in their bytes
    return values


def _unsettled(since: datetime) -> CompoundSelect[Any]:
    """The numbers of the films that `unsettled` names.

    Ways to jobs and deliveries begin at those that go on, of which there are few. What is owed a
    decision is looked for in all films once.
    """
    number = select(received.c.number)
    goes_on = jobs.c.state.in_(OPEN)
    failed = (jobs.c.state == JobState.FAILED) & (jobs.c.updated_at >= since)
    state = deliveries.c.state
    lost = state.in_(LOST) & (deliveries.c.next_attempt_at >= since)
    asked = IS_ASKED[0] & IS_ASKED[1]
    under_way = or_(state.in_((*WAITING, DeliveryState.SENDING)), asked)
    its_job = jobs.c.key == received.c.job_key
    its_delivery = deliveries.c.job_key == received.c.job_key
    # Also of a job that its film has left, for another or for none, when it came again.
    going_out = select(deliveries.c.job_key.label("key")).where(under_way)
    going_on = union(going_out, select(jobs.c.key).where(goes_on)).subquery()
    left = number.select_from(going_on).join(jobs, jobs.c.key == going_on.c.key)
    return union(
        number.where(received.c.decision == ""),
        number.where(_waits()),
        number.join(jobs, its_job).where(or_(goes_on, failed)),
        number.join(deliveries, its_delivery).where(or_(under_way, lost)),
        left.join(received, and_(*is_of_film())),
    )


def _waits() -> ColumnElement[bool]:
    """A film is owed a decision, and for so long as films are kept."""
    return received.c.purged_at.is_(None) & is_owed(received)


def is_owed(film: FromClause, words: Iterable[str] = OWED) -> ColumnElement[bool]:
    """As storage.jobs.is_owed, where its decision begins with one of these words."""
    return _begins_with(film, words) & ~_decided_later(film).exists()


def _decided_later(film: FromClause) -> Select[Any]:
    """Films of the same UID and sender, of any bytes, that came later and have come to an end."""
    other = received.alias()
    return _later(film, other).where(
        other.c.calling_ae_title == film.c.calling_ae_title,
        other.c.decision != "",
        ~_begins_with(other, OWED),
    )


def _overtaken(film: FromClause) -> Select[Any]:
    """Films of the same UID, of other bytes, that came later and are not owed a decision."""
    other = received.alias()
    return _later(film, other).where(other.c.digest != film.c.digest, ~is_owed(other))


def _later(film: FromClause, other: FromClause) -> Select[Any]:
    """Of the others, those of the film's UID that came after it, by whomever."""
    query = select(other.c.number).where(
        other.c.sop_instance_uid == film.c.sop_instance_uid,
        tuple_(arrived_at(other), other.c.number) > tuple_(arrived_at(film), film.c.number),
    )
    return query.correlate(film)


def _begins_with(table: FromClause, words: Iterable[str]) -> ColumnElement[bool]:
    return or_(*(table.c.decision.startswith(one, autoescape=True) for one in words))
