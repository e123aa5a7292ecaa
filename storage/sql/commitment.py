"""Whether destinations have stored what they took: who was asked, and what they said."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from storage import engine, rows
from storage.errors import UnknownKeyError
from storage.jobs import Delivery, Parcel, Transaction
from storage.schema import deliveries, transactions
from storage.sql.database import IS_ASKED, Database
from storage.sql.sending import parcel_of
from storage.states import DeliveryState, check_delivery


class Commitment(Database):
    """Transactions, and the deliveries that they ask about."""

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
                deliveries.c.promised,
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
        found = self._rows(_transaction(transaction_uid))
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
        # By its UID each: where nothing is promised, all that ever arrived stays DELIVERED.
        needed = select(deliveries.c.job_key).where(
            deliveries.c.transaction_uid == transactions.c.uid,
            deliveries.c.state == DeliveryState.DELIVERED,
        )
        old = delete(transactions).where(
            transactions.c.asked_at < before, ~needed.correlate(transactions).exists()
        )
        with engine.writing(self._engine) as db:
            return db.execute(old).rowcount

    def asked_in(self, transaction_uid: str) -> list[Delivery]:
        """See JobStore."""
        found = self._rows(_transaction(transaction_uid))
        if not found:
            return []
        query = select(deliveries).where(*_was_asked_in(found[0])).order_by(deliveries.c.position)
        return [rows.delivery_of(row) for row in self._rows(query)]

    def asked_counts(self) -> dict[str, int]:
        """See JobStore."""
        place = deliveries.c.destination
        query = select(place, func.count().label("number")).where(*IS_ASKED)
        found = self._rows(query.group_by(place).order_by(place))
        return {row["destination"]: row["number"] for row in found}

    def commit(
        self, destination: str, uids: Sequence[str], now: datetime, asked_in: str | None = None
    ) -> int:
        """See JobStore."""
        check_delivery(DeliveryState.DELIVERED, DeliveryState.COMMITTED)
        there = update(deliveries).where(
            deliveries.c.destination == destination,
            deliveries.c.sop_instance_uid.in_(uids),
            deliveries.c.state == DeliveryState.DELIVERED,
        )
        values = {"state": DeliveryState.COMMITTED, "next_attempt_at": now}
        with engine.writing(self._engine) as db:
            if asked_in is not None:
                meant = db.execute(_transaction(asked_in)).mappings().first()
                if meant is None:
                    return 0
                there = there.where(*_was_asked_in(meant))
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

    def ask_again(
        self, transaction_uid: str, at: datetime, reason: str, uids: Collection[str] | None = None
    ) -> None:
        """See JobStore."""
        change = update(deliveries).where(*_is_asked_in(transaction_uid))
        if uids is not None:
            change = change.where(deliveries.c.sop_instance_uid.in_(uids))
        with engine.writing(self._engine) as db:
            db.execute(change.values(next_attempt_at=at, reason=reason))


def _transaction(uid: str) -> Select[Any]:
    return select(transactions).where(transactions.c.uid == uid)


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
    return parcel_of(db, rows.delivery_of(db.execute(change).mappings().one()))


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
