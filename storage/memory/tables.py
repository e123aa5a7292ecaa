"""What all rooms of the store share: its rows under one lock, and a delivery's steps."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from storage.jobs import (
    Delivery,
    DestinationHealth,
    Job,
    NewReceived,
    Notice,
    Received,
    Result,
    Transaction,
    is_owed,
)
from storage.states import DeliveryState, check_delivery
from storage.store import ENDLESS_BYTES
from storage.words import OWED, legible

_F = TypeVar("_F", bound=Callable[..., Any])
Name = tuple[str, str]
"""Of a delivery: SOP Instance UID and destination."""


def locked(method: _F) -> _F:
    """The method, for which all others wait."""

    def call(self: "Tables", *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    call.__doc__ = method.__doc__
    return call  # type: ignore[return-value]  # the same signature


class Tables:
    """Rows in dictionaries under one lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._received: dict[int, Received] = {}
        self._jobs: dict[str, Job] = {}
        self._tokens: dict[str, int] = {}
        self._results: dict[str, Result] = {}
        self._deliveries: dict[Name, Delivery] = {}
        self._sending: dict[Name, tuple[str, datetime]] = {}
        self._retried: dict[Name, datetime] = {}
        self._delivered: dict[Name, datetime] = {}
        self._transactions: dict[str, tuple[Transaction, datetime]] = {}
        self._notices: dict[str, Notice] = {}
        self._destinations: dict[str, DestinationHealth] = {}
        self._purged_films: set[int] = set()
        self._joined: set[int] = set()
        self._purged_results: set[str] = set()

    def ahead_s(self, now: datetime) -> float:  # noqa: ARG002
        """See JobStore."""
        return 0.0

    def free_bytes(self) -> int:
        """See JobStore."""
        return ENDLESS_BYTES

    def close(self) -> None:
        """See JobStore."""

    def _is_owed(self, film: Received, words: tuple[str, ...] = OWED) -> bool:
        """As storage.jobs.is_owed, where its decision begins with one of these words."""
        uid, every = film.sop_instance_uid, self._received.values()
        of_its_uid = (other for other in every if other.sop_instance_uid == uid)
        return film.decision.startswith(words) and is_owed(film, lambda: of_its_uid)

    def _at(self, destination: str, state: DeliveryState) -> list[tuple[Name, Delivery]]:
        return [
            (name, delivery)
            for name, delivery in self._deliveries.items()
            if delivery.destination == destination and delivery.state is state
        ]

    def _is_held(self, destination: str) -> bool:
        health = self._destinations.get(destination)
        return health is not None and health.held

    def _asked_at(self, destination: str) -> list[Delivery]:
        there = self._at(destination, DeliveryState.DELIVERED)
        return [delivery for _, delivery in there if is_asked(delivery)]

    def _finish(
        self,
        name: Name,
        state: DeliveryState,
        at: datetime,
        reason: str,
        status: str | None = None,
    ) -> None:
        delivery = self._deliveries[name]
        check_delivery(delivery.state, state)
        self._sending.pop(name, None)
        self._deliveries[name] = replace(
            delivery,
            state=state,
            next_attempt_at=at,
            reason=legible(reason),
            status=delivery.status if status is None else status,
        )


def is_asked(delivery: Delivery) -> bool:
    """Whether it has arrived, and its destination is yet to commit it."""
    return delivery.state is DeliveryState.DELIVERED and delivery.promised


def film_of(row: NewReceived | Job) -> tuple[str, ...]:
    """Which film of whose it is, or is made of."""
    return row.sop_instance_uid, row.object.digest, row.calling_ae_title


def name_of(delivery: Delivery) -> Name:
    """Which it is."""
    return delivery.sop_instance_uid, delivery.destination
