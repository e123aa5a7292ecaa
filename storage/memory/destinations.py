"""Destinations: how they are doing, and what waits for them."""

from dataclasses import replace
from datetime import datetime

from storage.jobs import A_MOMENT, CLOCKS_APART, Delivery, DestinationHealth, says_nothing
from storage.memory.tables import Name, Tables, is_asked, locked, name_of
from storage.states import DeliveryState
from storage.words import legible


class Destinations(Tables):
    """Destinations with all that is due there."""

    @locked
    def destination(self, name: str) -> DestinationHealth:
        """See JobStore."""
        return self._destinations.get(name, DestinationHealth(name=name))

    @locked
    def note_destination(self, health: DestinationHealth, now: datetime) -> None:  # noqa: ARG002
        """See JobStore."""
        held = self.destination(health.name).held
        self._destinations[health.name] = replace(health, held=held, reason=legible(health.reason))

    @locked
    def hold(self, name: str, now: datetime) -> None:
        """See JobStore."""
        self._destinations[name] = replace(self.destination(name), held=True)
        for at, delivery in self._at(name, DeliveryState.DUE):
            self._finish(at, DeliveryState.HELD, now, delivery.reason)

    @locked
    def hold_due(self, name: str, now: datetime) -> None:
        """See JobStore."""
        if self.destination(name).held:
            self.hold(name, now)

    @locked
    def release_destination(self, name: str, now: datetime) -> None:
        """See JobStore."""
        self._destinations[name] = DestinationHealth(name=name)
        for at, delivery in self._at(name, DeliveryState.HELD):
            self._finish(at, DeliveryState.DUE, now, delivery.reason)
        self.hasten(name, now)

    @locked
    def move_deliveries(
        self, old: str, new: str, now: datetime, *, asked: DeliveryState | None = None
    ) -> int:
        """See JobStore."""
        unproven = self._asked_at(old) if asked else []
        due = [delivery for _, delivery in self._waiting(old)]
        if asked is DeliveryState.DUE:
            due, unproven = due + unproven, []
        moved = [replace(one, state=DeliveryState.DUE, attempts=0, status="") for one in due]
        moved += unproven
        for delivery in moved:
            del self._deliveries[name_of(delivery)]
            afresh = replace(
                delivery,
                destination=new,
                next_attempt_at=now,
                reason=f"moved from {old}",
                transaction_uid="",
                asked=0,
            )
            self._deliveries.setdefault(name_of(afresh), afresh)
            self._delivered[name_of(afresh)] = self._delivered.get(name_of(delivery), now)
        return len(moved)

    @locked
    def drop_deliveries(self, name: str, now: datetime, reason: str) -> int:
        """See JobStore."""
        waiting = self._waiting(name)
        for at, _ in waiting:
            self._finish(at, DeliveryState.REFUSED, now, reason)
        asked = self._asked_at(name)
        for delivery in asked:
            at_its_end = replace(delivery, promised=False, transaction_uid="", asked=0)
            self._deliveries[name_of(delivery)] = at_its_end
        return len(waiting) + len(asked)

    @locked
    def hasten(self, name: str, now: datetime) -> int:
        """See JobStore."""
        waiting = [
            (at, delivery)
            for at, delivery in self._at(name, DeliveryState.DUE)
            if delivery.next_attempt_at > now and says_nothing(delivery.status)
        ]
        for at, delivery in waiting:
            self._deliveries[at] = replace(delivery, next_attempt_at=now)
        return len(waiting)

    @locked
    def bring_forward(self, beyond: datetime, now: datetime) -> int:
        """See JobStore."""
        for name, health in self._destinations.items():
            if health.retry_at is not None and health.retry_at > beyond:
                self._destinations[name] = replace(health, retry_at=now)
        ahead = [
            (at, delivery)
            for at, delivery in self._deliveries.items()
            if (delivery.state is DeliveryState.DUE or is_asked(delivery))
            and delivery.next_attempt_at > beyond
        ]
        for at, delivery in ahead:
            self._deliveries[at] = replace(delivery, next_attempt_at=now)
        self._bring_back(now)
        return len(ahead)

    def _bring_back(self, now: datetime) -> None:
        """What is noted as delivered or asked by a clock that was ahead was so by now."""
        for name, at in self._delivered.items():
            if at > now + CLOCKS_APART:
                self._delivered[name] = now
        for uid, (transaction, at) in self._transactions.items():
            if at > now + CLOCKS_APART:
                self._transactions[uid] = (transaction, now - A_MOMENT)

    def _waiting(self, destination: str) -> list[tuple[Name, Delivery]]:
        states = (DeliveryState.DUE, DeliveryState.HELD)
        return [found for state in states for found in self._at(destination, state)]
