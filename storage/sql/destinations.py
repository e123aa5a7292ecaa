"""Destinations: how they are doing, and what waits for them."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Update, delete, or_, select, update

from storage import engine, rows
from storage.jobs import A_MOMENT, CLOCKS_APART, FOR_PEOPLE, NOT_ITS_OWN, DestinationHealth
from storage.schema import deliveries, destinations, transactions
from storage.sql.database import IS_ASKED, Database, insert_once
from storage.states import WAITING, DeliveryState, check_delivery


class Destinations(Database):
    """Destinations with all that is due there."""

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

    def move_deliveries(
        self, old: str, new: str, now: datetime, *, asked: DeliveryState | None = None
    ) -> int:
        """See JobStore."""
        due = {"state": DeliveryState.DUE, "attempts": 0, "status": ""}
        unproven = due if asked is DeliveryState.DUE else {}
        with engine.writing(self._engine) as db:
            number = _move(db, old, new, now, _waits_at(old), **due)
            return number + (_move(db, old, new, now, _asked_at(old), **unproven) if asked else 0)

    def drop_deliveries(self, name: str, now: datetime, reason: str) -> int:
        """See JobStore."""
        for state in WAITING:
            check_delivery(state, DeliveryState.REFUSED)
        values = {"state": DeliveryState.REFUSED, "next_attempt_at": now, "reason": reason}
        refused = update(deliveries).where(*_waits_at(name)).values(**values)
        at_its_end = {"promised": False, "transaction_uid": "", "asked": 0}
        unasked = update(deliveries).where(*_asked_at(name)).values(**at_its_end)
        with engine.writing(self._engine) as db:
            return sum(db.execute(change).rowcount for change in (refused, unasked))

    def hasten(self, name: str, now: datetime) -> int:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            return db.execute(_hastened(name, now)).rowcount

    def bring_forward(self, beyond: datetime, now: datetime) -> int:
        """See JobStore."""
        states = ((deliveries.c.state == DeliveryState.DUE,), IS_ASKED)
        with engine.writing(self._engine) as db:
            resting = update(destinations).where(destinations.c.retry_at > beyond)
            db.execute(resting.values(retry_at=now))
            for change in _brought_back(now):
                db.execute(change)
            return sum(
                db.execute(
                    update(deliveries)
                    .where(*state, deliveries.c.next_attempt_at > beyond)
                    .values(next_attempt_at=now)
                ).rowcount
                for state in states
            )


def _brought_back(now: datetime) -> tuple[Update, Update]:
    """What is noted as delivered or asked by a clock that was ahead was so by now."""
    ahead = now + CLOCKS_APART
    delivered = update(deliveries).where(*IS_ASKED, deliveries.c.delivered_at > ahead)
    asked = update(transactions).where(transactions.c.asked_at > ahead)
    return delivered.values(delivered_at=now), asked.values(asked_at=now - A_MOMENT)


def _put_destination(
    db: Connection, name: str, now: datetime, values: Mapping[str, object]
) -> None:
    """The destination's row has these values, and those it had before."""
    same = select(destinations).where(destinations.c.name == name)
    well = {"name": name, "held": False, "failures": 0, "reason": "", "changed_at": now}
    if db.execute(same).first() is None:
        insert_once(db, destinations, well, same)
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
    return (deliveries.c.destination == destination, deliveries.c.state.in_(WAITING))


def _asked_at(destination: str) -> tuple[ColumnElement[bool], ...]:
    return (deliveries.c.destination == destination, *IS_ASKED)


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
