"""Deliveries under leases: sent, postponed, refused, expired."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from storage import promises
from storage.jobs import RECALLED, REJECTION_NOTE, DeliveryCount, Parcel, Result
from storage.memory.production import Production
from storage.memory.tables import Name, locked, name_of
from storage.states import DeliveryState, check_delivery

_MOMENT = timedelta.resolution


class Sending(Production):
    """Deliveries on their way."""

    @locked
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
            and not self._is_held(destination)
        ]
        due.sort(key=lambda item: (item[1].next_attempt_at, item[1].job_key))
        parcels = []
        for name, delivery in due[:limit]:
            if self._is_rejected(delivery):
                self._finish(name, DeliveryState.REFUSED, now, RECALLED)
            else:
                parcels.append(self._start_sending(name, owner, now, lease_s))
        return parcels

    @locked
    def renew_deliveries(self, parcels: Sequence[Parcel], until: datetime) -> int:
        """See JobStore."""
        named = [(name_of(parcel.delivery), parcel.delivery) for parcel in parcels]
        mine = [name for name, delivery in named if self._deliveries.get(name) == delivery]
        for name in mine:
            self._sending[name] = (self._sending[name][0], until)
        return len(mine)

    @locked
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
        name = name_of(parcel.delivery)
        if not self._leave_sending(parcel, DeliveryState.DELIVERED, now, note, status):
            return False
        self._deliveries[name] = replace(self._deliveries[name], promised=promised)
        self._delivered[name] = now
        return True

    def postpone(
        self, parcel: Parcel, next_attempt_at: datetime, reason: str, status: str = ""
    ) -> bool:
        """See JobStore."""
        return self._leave_sending(parcel, DeliveryState.DUE, next_attempt_at, reason, status)

    @locked
    def give_back(self, parcel: Parcel, now: datetime, reason: str) -> bool:
        """See JobStore."""
        if not self._leave_sending(parcel, DeliveryState.DUE, now, reason, ""):
            return False
        name = name_of(parcel.delivery)
        before = parcel.delivery.attempts - 1
        self._deliveries[name] = replace(self._deliveries[name], attempts=before)
        return True

    def refuse(self, parcel: Parcel, now: datetime, reason: str, status: str = "") -> bool:
        """See JobStore."""
        return self._leave_sending(parcel, DeliveryState.REFUSED, now, reason, status)

    @locked
    def refuse_lost(
        self, parcel: Parcel, now: datetime, status: str, is_lost: Callable[[Result], bool]
    ) -> bool:
        """See JobStore."""
        lost = is_lost(self._results[parcel.result.sop_instance_uid])
        state = DeliveryState.REFUSED if lost else DeliveryState.DUE
        reason = promises.LOST if lost else promises.MADE_AGAIN
        return self._leave_sending(parcel, state, now, reason, status)

    @locked
    def expire(self, name: str, received_before: datetime, now: datetime, reason: str) -> int:
        """See JobStore."""
        films = [film for film in self._received.values() if film.arrived_at >= received_before]
        fresh = {film.job_key for film in films}
        came = {(film.sop_instance_uid, film.object.digest) for film in films}
        fresh |= {
            job.key
            for job in self._jobs.values()
            if (job.sop_instance_uid, job.object.digest) in came
        }
        due = self._at(name, DeliveryState.DUE)
        late = [
            at
            for at, delivery in due
            if delivery.job_key not in fresh
            and self._retried.get(at, received_before - _MOMENT) < received_before
            and self._results[at[0]].kind != REJECTION_NOTE
        ]
        for at in late:
            self._finish(at, DeliveryState.EXPIRED, now, reason)
        return len(late)

    @locked
    def delivery_counts(self) -> list[DeliveryCount]:
        """See JobStore."""
        found = Counter((d.destination, d.state) for d in self._deliveries.values())
        return [
            DeliveryCount(destination=destination, state=state, number=number)
            for (destination, state), number in sorted(found.items())
        ]

    def _start_sending(self, name: Name, owner: str, now: datetime, lease_s: float) -> Parcel:
        delivery = self._deliveries[name]
        check_delivery(delivery.state, DeliveryState.SENDING)
        sending = replace(delivery, state=DeliveryState.SENDING, attempts=delivery.attempts + 1)
        self._deliveries[name] = sending
        self._sending[name] = (owner, now + timedelta(seconds=lease_s))
        return Parcel(delivery=sending, result=self._results[name[0]])

    @locked
    def _leave_sending(
        self, parcel: Parcel, state: DeliveryState, at: datetime, reason: str, status: str
    ) -> bool:
        name = name_of(parcel.delivery)
        if self._deliveries.get(name) != parcel.delivery:
            return False
        self._deliveries[name] = replace(parcel.delivery, asked=0, transaction_uid="")
        self._finish(name, state, at, reason, status)
        return True
