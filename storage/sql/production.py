"""What jobs bring: results, and their deliveries to whom they were promised."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, insert, select, update

from storage import engine, promises, rows, schema
from storage.jobs import REJECTION_NOTE, Delivery, Result
from storage.schema import deliveries, jobs, results
from storage.sql.database import Database
from storage.sql.jobs import leave_running, restart
from storage.states import LOST, WAITING, DeliveryState, JobState, check_delivery
from storage.store import NO_CHOICE, takers_of

_MOST_DESTINATIONS = 1000
"""Deliveries are listed by result, then destination; beyond it their order is not kept."""


class Production(Database):
    """Results and their deliveries, as they are made."""

    def results(self, key: str) -> list[Result]:
        """See JobStore."""
        return [rows.result_of(row) for row in self._rows(_made_of(key))]

    def deliveries(self, key: str) -> list[Delivery]:
        """See JobStore."""
        query = select(deliveries).where(deliveries.c.job_key == key)
        return [rows.delivery_of(row) for row in self._rows(query.order_by(deliveries.c.position))]

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
            leave_running(db, key, token, JobState.PRODUCED, now, left_out)
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
            leave_running(db, key, token, JobState.REJECTED, now, reason)
            for note in notes:
                _put_result(db, note, destinations, now, quarantined.get(note.kind, ""))
                mine = _made_of(key).where(
                    schema.results.c.sop_instance_uid == note.sop_instance_uid
                )
                row = db.execute(mine).mappings().one()
                _add_takers(db, row, destinations, now, recalled=False)

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


def _made_of(key: str) -> Select[Any]:
    """The results of a job, in the order they were produced."""
    return select(results).where(results.c.job_key == key).order_by(results.c.position)


def notes_of(key: str) -> Select[Any]:
    """What rejects the results of a job."""
    return select(results.c.sop_instance_uid).where(
        results.c.job_key == key, results.c.kind == REJECTION_NOTE
    )


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
    bring(db, key, had, promises.beyond(had, promised), now)


def bring(
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
        restart(db, key, now, JobState.PRODUCED)


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
    old = {*LOST, *(WAITING if quarantined else ())} - {new}
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
    for state in WAITING:
        check_delivery(state, DeliveryState.REFUSED)
    due = update(deliveries).where(deliveries.c.job_key == key, deliveries.c.state.in_(WAITING))
    db.execute(due.values(state=DeliveryState.REFUSED, next_attempt_at=now, reason=reason))
