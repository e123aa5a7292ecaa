"""Objects that are old enough, and that nobody needs any more, are purged; their rows stay."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from dicom_node.config import Retention
from storage.jobs import ObjectRef
from storage.objects import ObjectStore
from storage.states import DeliveryState
from storage.store import JobStore

_log = structlog.get_logger()

_BATCH = 500
_REPORTS_COME = timedelta(days=30)
"""So late a report of storage commitment is still known by its transaction."""


class Purger:
    """Removes kept films and results by age; never those of a job that is not at its end."""

    def __init__(self, *, store: JobStore, objects: ObjectStore, retention: Retention) -> None:
        self._store, self._objects, self._retention = store, objects, retention
        self._proofs = {DeliveryState.COMMITTED}
        if retention.after == "delivered":
            self._proofs.add(DeliveryState.DELIVERED)

    def purge(self, now: datetime) -> int:
        """What may go is gone; returns how many objects.

        The object goes first: a crash in between leaves a row that is purged again.
        """
        self._store.forget_transactions(now - _REPORTS_COME)
        number = self._purge_films(now) + self._purge_results(now)
        if number:
            _log.info("objects purged", objects=number)
        return number

    def _purge_films(self, now: datetime) -> int:
        before, number = _before(self._retention.received_days, now), 0
        while before and (films := self._store.purgeable_received(before, self._proofs, _BATCH)):
            self._remove([film.object for film in films])
            self._store.purged(films, [], now)
            number += len(films)
        return number

    def _purge_results(self, now: datetime) -> int:
        before, number = _before(self._retention.results_days, now), 0
        while before and (results := self._store.purgeable_results(before, self._proofs, _BATCH)):
            self._remove([result.object for result in results])
            self._store.purged([], results, now)
            number += len(results)
        return number

    def _remove(self, objects: Sequence[ObjectRef]) -> None:
        for ref in objects:
            self._objects.remove(ref)


def _before(days: float | None, now: datetime) -> datetime | None:
    return None if days is None else now - timedelta(days=days)
