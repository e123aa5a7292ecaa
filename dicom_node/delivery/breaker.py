"""A destination that is in trouble rests, and is probed before anything is sent to it again.

| state     | when                                         | then                                  |
|-----------|----------------------------------------------|---------------------------------------|
| well      | fewer failures in a row than `rest_after`    | results are sent as they are due      |
| resting   | that many associations in a row came to none,| nothing is sent until its next probe  |
|           | or HTTP requests to 408, 425, 429 or 5xx     |                                       |
| half open | its time has come                            | C-ECHO, QIDO-RS: if it answers, what  |
|           |                                              | waits is due; else it rests longer    |
| held      | by the operator                              | nothing is sent until it is released  |
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from dicom_node import backoff
from dicom_node.config import DeliverySettings
from dicom_node.delivery import outcome
from dicom_node.delivery.gateway import Anywhere
from dicom_node.delivery.outcome import Fate, Outcome
from storage.jobs import DestinationHealth, says_nothing
from storage.store import JobStore

_log = structlog.get_logger()

Probe = Callable[[Anywhere], str]
"""Why a destination cannot be reached; empty where it can."""


class Breaker:
    """Says whether a destination may be sent to; keeps what it learns in the store."""

    def __init__(
        self,
        *,
        store: JobStore,
        probe: Probe,
        settings: DeliverySettings,
        chance: Callable[[], float],
    ) -> None:
        self._store, self._probe = store, probe
        self._settings, self._chance = settings, chance

    def lets(self, name: str, destination: Anywhere, now: datetime) -> bool:
        """Whether results may go there now; it was probed if it was time to."""
        health = self._store.destination(name)
        if health.held:
            self._store.hold_due(name, now)  # what has become due since, if it is held still
            return False
        if health.retry_at is None:
            return True
        if now < health.retry_at:
            return False
        return self._probed(health, destination, now)

    def note(self, name: str, outcomes: Sequence[Outcome], now: datetime) -> None:
        """An association ended so; enough that came to nothing, and the destination rests."""
        tried = [one for one in outcomes if one.fate is not Fate.UNSENT]
        if not tried:  # we stopped, or our time was up: that says nothing of the destination
            return
        health = self._store.destination(name)
        if not _came_to_nothing(tried):
            if health.failures:
                self._store.note_destination(DestinationHealth(name=name), now)
            return
        self._fail(health, tried[0].reason, now)

    def _probed(self, health: DestinationHealth, destination: Anywhere, now: datetime) -> bool:
        trouble = self._trouble(destination)
        if trouble:
            self._fail(health, trouble, now)
            return False
        self._store.note_destination(DestinationHealth(name=health.name), now)
        hastened = self._store.hasten(health.name, now)
        _log.info("destination answers again", destination=health.name, results=hastened)
        return True

    def _trouble(self, destination: Anywhere) -> str:
        """Why it cannot be reached; what nobody foresaw too, which has its growing delay."""
        try:
            return self._probe(destination)
        except Exception as fault:  # noqa: BLE001 - as at the worker's loop: its row must say it
            _log.exception("probe failed")
            return outcome.unforeseen(fault).reason

    def _fail(self, health: DestinationHealth, reason: str, now: datetime) -> None:
        failures = health.failures + 1
        failed = replace(health, failures=failures, reason=reason)
        if failures >= self._settings.rest_after:
            delay_s = backoff.delay_s(failures, self._settings.retry, self._chance())
            failed = replace(failed, retry_at=now + timedelta(seconds=delay_s))
            _log.warning(
                "destination rests",
                destination=health.name,
                failures=failures,
                reason=reason,
                probed_in_s=round(delay_s),
            )
        self._store.note_destination(failed, now)


def _came_to_nothing(tried: Sequence[Outcome]) -> bool:
    """No answer said anything of a result: there was none, or the destination was in trouble."""
    postponed = {Fate.POSTPONED, Fate.POSTPONED_SLOWLY}
    return all(one.fate in postponed and says_nothing(one.status) for one in tried)
