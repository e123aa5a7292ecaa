"""Whether destinations have stored what they took: who was asked, and what they said."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from storage.errors import UnknownKeyError
from storage.jobs import Delivery, Parcel, Transaction
from storage.memory.tables import Name, Tables, locked, name_of
from storage.states import DeliveryState
from storage.words import legible


class Commitment(Tables):
    """Transactions, and the deliveries that they ask about."""

    @locked
    def ask(
        self,
        destination: str,
        transaction_uid: str,
        now: datetime,
        again_at: datetime,
        limit: int,
    ) -> list[Parcel]:
        """See JobStore."""
        due = [
            name
            for name, delivery in self._deliveries.items()
            if delivery.state is DeliveryState.DELIVERED
            and delivery.destination == destination
            and delivery.next_attempt_at <= now
            and delivery.promised
        ]
        due.sort(key=lambda name: (self._deliveries[name].next_attempt_at, name))
        if due:
            transaction = Transaction(
                uid=transaction_uid,
                destination=destination,
                sop_instance_uids=frozenset(uid for uid, _ in due[:limit]),
            )
            self._transactions[transaction_uid] = (transaction, now)
        return [self._asked(name, transaction_uid, again_at) for name in due[:limit]]

    @locked
    def transaction(self, transaction_uid: str) -> Transaction:
        """See JobStore."""
        if transaction_uid not in self._transactions:
            raise UnknownKeyError(f"no transaction {transaction_uid!r}")
        return self._transactions[transaction_uid][0]

    @locked
    def forget_transactions(self, before: datetime) -> int:
        """See JobStore."""
        old = [uid for uid, (_, at) in self._transactions.items() if at < before]
        needed = {d.transaction_uid for place in self._places() for d in self._asked_at(place)}
        unneeded = [uid for uid in old if uid not in needed]
        for uid in unneeded:
            del self._transactions[uid]
        return len(unneeded)

    @locked
    def asked_in(self, transaction_uid: str) -> list[Delivery]:
        """See JobStore."""
        if transaction_uid not in self._transactions:
            return []
        transaction, at = self._transactions[transaction_uid]
        return [
            delivery
            for _, delivery in self._at(transaction.destination, DeliveryState.DELIVERED)
            if delivery.transaction_uid == transaction_uid
            or (
                delivery.sop_instance_uid in transaction.sop_instance_uids
                and self._delivered[name_of(delivery)] <= at
            )
        ]

    @locked
    def asked_counts(self) -> dict[str, int]:
        """See JobStore."""
        found = {place: len(self._asked_at(place)) for place in self._places()}
        return {place: number for place, number in found.items() if number}

    @locked
    def commit(
        self, destination: str, uids: Sequence[str], now: datetime, asked_in: str | None = None
    ) -> int:
        """See JobStore."""
        names = [(uid, destination) for uid in dict.fromkeys(uids)]
        known = [self._deliveries[name] for name in names if name in self._deliveries]
        there = [d for d in known if d.state is DeliveryState.DELIVERED]
        if asked_in is not None:
            meant = self.asked_in(asked_in)
            there = [delivery for delivery in there if delivery in meant]
        for delivery in there:
            self._finish(name_of(delivery), DeliveryState.COMMITTED, now, delivery.reason)
        return len(there)

    @locked
    def send_again(self, asked: Delivery, at: datetime, reason: str, status: str = "") -> None:
        """See JobStore."""
        known = self._deliveries.get(name_of(asked))
        if (
            known is not None
            and known.state is DeliveryState.DELIVERED
            and known.transaction_uid == asked.transaction_uid
        ):
            self._finish(name_of(asked), DeliveryState.DUE, at, reason, status)

    @locked
    def ask_again(
        self, transaction_uid: str, at: datetime, reason: str, uids: Collection[str] | None = None
    ) -> None:
        """See JobStore."""
        last = [d for d in self.asked_in(transaction_uid) if d.transaction_uid == transaction_uid]
        these = [d for d in last if uids is None or d.sop_instance_uid in uids]
        for delivery in these:
            self._deliveries[name_of(delivery)] = replace(
                delivery, next_attempt_at=at, reason=legible(reason)
            )

    def _asked(self, name: Name, transaction_uid: str, again_at: datetime) -> Parcel:
        delivery = replace(
            self._deliveries[name],
            transaction_uid=transaction_uid,
            asked=self._deliveries[name].asked + 1,
            next_attempt_at=again_at,
        )
        self._deliveries[name] = delivery
        return Parcel(delivery=delivery, result=self._results[name[0]])

    def _places(self) -> list[str]:
        return sorted({place for _, place in self._deliveries})
