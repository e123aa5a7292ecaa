"""Which objects nobody needs any more, and that they are gone."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, not_, or_, select, text, update

from storage import engine, rows
from storage.jobs import ObjectRef, Proof, Received, Result
from storage.schema import deliveries, jobs, received, results
from storage.sql.database import Database, arrived_at
from storage.sql.films import is_owed, rows_of
from storage.states import ENDED, LOST, OPEN, DeliveryState, JobState
from storage.words import OURS


class Retention(Database):
    """What is purged, and what no row knows."""

    def purgeable_received(self, before: datetime, proof: Proof, limit: int) -> list[Received]:
        """See JobStore."""
        query = _purgeable_films(before, proof).order_by(received.c.number).limit(limit)
        return [rows.received_of(row) for row in self._rows(query)]

    def purgeable_results(self, before: datetime, proof: Proof, limit: int) -> list[Result]:
        """See JobStore."""
        here = results.c.purged_at.is_(None)
        query = select(results).where(here, _is_unneeded(before, proof))
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
            db.execute(rows_of(film.sop_instance_uid, film.object.digest).with_for_update())
            if db.execute(still.with_for_update(of=received)).first() is None:
                return False
            mine = received.c.number == film.number
            db.execute(update(received).where(mine).values(purged_at=now))
            remove(film.object)  # last, since the rows are locked so long
            return True

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
        unneeded = _is_unneeded(before, proof)
        still = update(results).where(mine, unneeded, results.c.purged_at.is_(None))
        with engine.writing(self._engine) as db:
            _hold(db, result.job_key)
            if db.execute(still.values(purged_at=now)).rowcount == 0:
                return False
        with engine.writing(self._engine) as db:
            _hold(db, result.job_key)
            marked = select(results).where(mine, unneeded, results.c.purged_at == now)
            if db.execute(marked).first() is not None:  # nobody has had it made again since
                remove(result.object)
        return True

    def unknown(self, names: Collection[str]) -> list[str]:
        """See JobStore."""
        with engine.reading(self._engine) as db:
            known = _known(db, names)
        return [name for name in names if name not in known]

    def drop_unknown(self, name: str, drop: Callable[[], bool]) -> bool:
        """See JobStore."""
        its_job = select(results.c.job_key).where(results.c.object_name == name)
        with engine.writing(self._engine) as db:
            # First, as everywhere: who would have it made again, and find it whole, waits.
            db.execute(select(jobs).where(jobs.c.key.in_(its_job)).with_for_update())
            if db.dialect.name == "postgresql":  # SQLite's one writer is alone as it is
                db.execute(text("LOCK TABLE received, results IN SHARE ROW EXCLUSIVE MODE"))
            return not _known(db, [name]) and drop()


def _known(db: Connection, names: Collection[str]) -> set[str]:
    """Which of these objects a film or a result has that is not purged, or may be no more."""
    is_open = results.c.job_key.in_(select(jobs.c.key).where(jobs.c.state.in_(OPEN)))
    has = (
        (received, received.c.purged_at.is_(None)),
        (results, or_(results.c.purged_at.is_(None), is_open)),
    )
    return {
        row.object_name
        for table, here in has
        for row in db.execute(
            select(table.c.object_name).where(table.c.object_name.in_(names), here)
        )
    }


def _hold(db: Connection, key: str) -> None:
    """Whoever makes a result due has its job or its delivery in hand, and waits."""
    for table, column in ((jobs, jobs.c.key), (deliveries, deliveries.c.job_key)):
        db.execute(select(table).where(column == key).with_for_update())


def _purgeable_films(before: datetime, proof: Proof) -> Select[Any]:
    """Films whose object nobody needs any more, by whichever sender it came."""
    sender = received.alias()
    final = _final_jobs(proof).where(jobs.c.key == sender.c.job_key).correlate(sender)
    its_end = or_(sender.c.job_key == "", final.exists())
    needed = select(sender.c.number).where(
        sender.c.sop_instance_uid == received.c.sop_instance_uid,
        sender.c.digest == received.c.digest,
        sender.c.purged_at.is_(None),
        or_(
            arrived_at(sender) >= before,
            sender.c.decision == "",
            is_owed(sender, (OURS,)),
            not_(its_end),
        ),
    )
    return select(received).where(
        arrived_at() < before,
        received.c.purged_at.is_(None),
        ~needed.exists(),
        ~_jobs_left_behind(proof).exists(),
    )


def _jobs_left_behind(proof: Proof) -> Select[Any]:
    """Jobs made of a film's object that go on, though what it came again for is another's."""
    under_way = _unproven(proof).where(deliveries.c.state.not_in(LOST))
    made_of_it = (
        jobs.c.sop_instance_uid == received.c.sop_instance_uid,
        jobs.c.digest == received.c.digest,
    )
    query = select(jobs.c.key).where(*made_of_it, or_(jobs.c.state.in_(OPEN), under_way.exists()))
    return query.correlate(received)


def _is_unneeded(before: datetime, proof: Proof) -> ColumnElement[bool]:
    """Of a result: nobody needs it any more."""
    final = _final_jobs(proof).where(jobs.c.updated_at < before)
    return final.where(jobs.c.key == results.c.job_key).correlate(results).exists()


def _final_jobs(proof: Proof) -> Select[Any]:
    """Keys of jobs that will never need their film or results again."""
    whole = or_(jobs.c.state == JobState.REJECTED, jobs.c.error == "")
    return select(jobs.c.key).where(jobs.c.state.in_(ENDED), whole, ~_unproven(proof).exists())


def _unproven(proof: Proof) -> Select[Any]:
    """Deliveries of the job that is asked about that have not arrived for good.

    By its key: a list of all such keys is more than a database compares with in time.
    """
    its = deliveries.c.job_key == jobs.c.key
    return select(deliveries.c.job_key).where(its, not_(_is_proven(proof))).correlate(jobs)


def _is_proven(proof: Proof) -> ColumnElement[bool]:
    """As `Proof.is_of`."""
    state, place = deliveries.c.state, deliveries.c.destination
    committed = state == DeliveryState.COMMITTED
    if not proof.delivered:
        return committed
    answers = place.in_(proof.known) & place.not_in(proof.queried)
    is_end = or_(answers, not_(deliveries.c.promised))
    return or_(committed, (state == DeliveryState.DELIVERED) & is_end)
