"""Objects that are old enough, and that nobody needs any more, are purged; their rows stay."""

from datetime import datetime, timedelta
from functools import partial
from itertools import islice

import structlog

from dicom_node.config import Retention
from storage.jobs import Proof
from storage.objects import ObjectStore
from storage.store import JobStore

_log = structlog.get_logger()

_BATCH = 500
_REPORTS_COME = timedelta(days=30)
"""So late a report of storage commitment is still known by its transaction."""
_NAMES = 5000
_OURS = ("received/", "results/")
"""What else is in that folder, such as a database, is not ours to remove."""
_DAY_S = 86_400.0
"""No film or job is so long between a file and its row."""


class Purger:
    """Removes kept films and results by age; never those of a job that is not at its end."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        retention: Retention,
        queried: frozenset[str] = frozenset(),
        known: frozenset[str] = frozenset(),
    ) -> None:
        """`queried` are the destinations where results are looked for in the study of their files.

        There DELIVERED is no proof: without its file nobody can ask, or send it again. `known` are
        all that are configured: what another was asked about it may yet have to be sent again.
        """
        self._store, self._objects, self._retention = store, objects, retention
        delivered = retention.after == "delivered"
        self._proof = Proof(delivered=delivered, queried=queried, known=known)

    def purge(self, now: datetime) -> int:
        """What may go is gone; returns how many objects.

        A film's object goes before its row says so: after a crash in between it is purged again. A
        result's row says so first: after a crash who needs it has it made again, and the file is
        swept. Of what is needed again meanwhile it stays, or is there again: see Intake.
        """
        self._store.forget_transactions(now - _REPORTS_COME)
        number = self._purge_films(now) + self._purge_results(now)
        if number:
            _log.info("objects purged", objects=number)
        return number

    def _purge_films(self, now: datetime) -> int:
        before, number = _before(self._retention.received_days, now), 0
        store, proof, remove = self._store, self._proof, self._objects.remove
        while before and (films := store.purgeable_received(before, proof, _BATCH)):
            number += sum(store.purge_received(one, before, proof, now, remove) for one in films)
        return number

    def _purge_results(self, now: datetime) -> int:
        before, number = _before(self._retention.results_days, now), 0
        store, proof, remove = self._store, self._proof, self._objects.remove
        while before and (made := store.purgeable_results(before, proof, _BATCH)):
            number += sum(store.purge_result(one, before, proof, now, remove) for one in made)
        return number


def sweep_unknown(store: JobStore, objects: ObjectStore, older_than_s: float = _DAY_S) -> int:
    """Kept files of at least that age that no row knows are gone; returns how many.

    A crash leaves them, or a database that was away between a file and its row.
    """
    names = (name for name in objects.stale(older_than_s) if name.startswith(_OURS))
    number = 0
    while some := list(islice(names, _NAMES)):
        for name in store.unknown(some):
            number += store.drop_unknown(name, partial(objects.drop_stale, name, older_than_s))
    if number:
        _log.info("objects without a row removed", objects=number)
    return number


def _before(days: float | None, now: datetime) -> datetime | None:
    return None if days is None else now - timedelta(days=days)
