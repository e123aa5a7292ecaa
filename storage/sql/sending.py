"""Deliveries under leases: sent, postponed, refused, expired."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, or_, select, tuple_, update

from storage import engine, promises, rows
from storage.jobs import RECALLED, REJECTION_NOTE, Delivery, DeliveryCount, Parcel, Result
from storage.schema import deliveries, destinations, jobs, received, results
from storage.sql.database import Database, arrived_at
from storage.states import DeliveryState, check_delivery


class Sending(Database):
    """Deliveries on their way."""

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
        place = select(destinations.c.held).where(destinations.c.name == destination)
        with engine.writing(self._engine) as db:
            # Locked: who holds it waits, and finds what is not in hand.
            if db.execute(place.with_for_update(read=True)).scalar():
                return []
            uids = [row.sop_instance_uid for row in db.execute(due)]
            rejected = _refuse_rejected(db, uids, now)
            return [
                _start_sending(db, uid, destination, owner, now, lease_s)
                for uid in uids
                if uid not in rejected
            ]

    def renew_deliveries(self, parcels: Sequence[Parcel], until: datetime) -> int:
        """See JobStore."""
        attempt = ("sop_instance_uid", "destination", "attempts")
        these = [tuple(getattr(p.delivery, name) for name in attempt) for p in parcels]
        mine = update(deliveries).where(
            deliveries.c.state == DeliveryState.SENDING,
            tuple_(*(deliveries.c[name] for name in attempt)).in_(these),
        )
        with engine.writing(self._engine) as db:
            return db.execute(mine.values(lease_until=until)).rowcount

    def delivered(
        self,
        parcel: Parcel,
        now: datetime,
        note: str,
        status: str = "",
        *,
        promised: bool = False,
    ) -> bool:
        """See JobStore."""
        state, more = DeliveryState.DELIVERED, {"delivered_at": now, "promised": promised}
        with engine.writing(self._engine) as db:
            return _leave_sending(db, parcel, state, now, note, status, **more)

    def postpone(
        self, parcel: Parcel, next_attempt_at: datetime, reason: str, status: str = ""
    ) -> bool:
        """See JobStore."""
        return self._leave_sending(parcel, DeliveryState.DUE, next_attempt_at, reason, status)

    def give_back(self, parcel: Parcel, now: datetime, reason: str) -> bool:
        """See JobStore."""
        # The number is had again by the next claim alone: who had an earlier one finds a higher.
        before = {"attempts": deliveries.c.attempts - 1}
        with engine.writing(self._engine) as db:
            return _leave_sending(db, parcel, DeliveryState.DUE, now, reason, "", **before)

    def refuse(self, parcel: Parcel, now: datetime, reason: str, status: str = "") -> bool:
        """See JobStore."""
        return self._leave_sending(parcel, DeliveryState.REFUSED, now, reason, status)

    def refuse_lost(
        self, parcel: Parcel, now: datetime, status: str, is_lost: Callable[[Result], bool]
    ) -> bool:
        """See JobStore."""
        its_job = select(jobs.c.key).where(jobs.c.key == parcel.result.job_key)
        with engine.writing(self._engine) as db:
            db.execute(its_job.with_for_update())  # which whoever makes it again has in hand
            lost = is_lost(parcel_of(db, parcel.delivery).result)
            state = DeliveryState.REFUSED if lost else DeliveryState.DUE
            reason = promises.LOST if lost else promises.MADE_AGAIN
            return _leave_sending(db, parcel, state, now, reason, status)

    def expire(self, name: str, received_before: datetime, now: datetime, reason: str) -> int:
        """See JobStore."""
        check_delivery(DeliveryState.DUE, DeliveryState.EXPIRED)
        film, came = select(received.c.number), arrived_at() >= received_before
        fresh = film.where(received.c.job_key == deliveries.c.job_key, came).correlate(deliveries)
        # Of a job that its film has left for another when it came again, too.
        left = film.where(
            jobs.c.key == deliveries.c.job_key,
            jobs.c.sop_instance_uid == received.c.sop_instance_uid,
            jobs.c.digest == received.c.digest,
            came,
        ).correlate(deliveries)
        notes = select(results.c.sop_instance_uid).where(results.c.kind == REJECTION_NOTE)
        retried_at = deliveries.c.retried_at
        late = update(deliveries).where(
            deliveries.c.destination == name,
            deliveries.c.state == DeliveryState.DUE,
            ~fresh.exists(),
            ~left.exists(),
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

    def _leave_sending(
        self, parcel: Parcel, state: DeliveryState, at: datetime, reason: str, status: str
    ) -> bool:
        with engine.writing(self._engine) as db:
            return _leave_sending(db, parcel, state, at, reason, status)


def _leave_sending(
    db: Connection,
    parcel: Parcel,
    state: DeliveryState,
    at: datetime,
    reason: str,
    status: str,
    **more: object,
) -> bool:
    check_delivery(DeliveryState.SENDING, state)
    mine = update(deliveries).where(
        deliveries.c.sop_instance_uid == parcel.delivery.sop_instance_uid,
        deliveries.c.destination == parcel.delivery.destination,
        deliveries.c.state == DeliveryState.SENDING,
        deliveries.c.attempts == parcel.delivery.attempts,
    )
    values = {"state": state, "next_attempt_at": at, "reason": reason, "status": status}
    afresh = {"asked": 0, "transaction_uid": "", "lease_owner": None, "lease_until": None}
    return db.execute(mine.values(**values, **afresh, **more)).rowcount > 0


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
    return parcel_of(db, rows.delivery_of(db.execute(change).mappings().one()))


def parcel_of(db: Connection, delivery: Delivery) -> Parcel:
    """The delivery with its result."""
    query = select(results).where(results.c.sop_instance_uid == delivery.sop_instance_uid)
    return Parcel(delivery=delivery, result=rows.result_of(db.execute(query).mappings().one()))


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
