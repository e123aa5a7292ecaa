"""Objects that are old enough, and that nobody needs any more, are purged; their rows stay."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

import structlog

from dicom_node.config import Retention
from storage.errors import ObjectsUnavailableError, StorageError, StoreUnavailableError
from storage.jobs import Proof, Received
from storage.objects import FOLDERS, ObjectStore, demand_ours
from storage.store import JobStore

_log = structlog.get_logger()

_BATCH = 500
_REPORTS_COME = timedelta(days=30)
"""So late a report of storage commitment is still known by its transaction."""
_NAMES = 5000
_OURS = tuple(f"{folder}/" for folder in FOLDERS)
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
        swept. Of what is needed again meanwhile it stays, or is there again: see Intake. One that
        the disk does not let go holds up no other.
        """
        self._store.forget_transactions(now - _REPORTS_COME)
        stuck: list[StorageError] = []
        number = self._purge_films(now, stuck) + self._purge_results(now, stuck)
        if number:
            _log.info("objects purged", objects=number)
        if stuck:
            _log.error("objects not purged", objects=len(stuck), error=str(stuck[0]))
        return number

    def _purge_films(self, now: datetime, stuck: list[StorageError]) -> int:
        before, number, left = _before(self._retention.received_days, now), 0, set[int]()
        while before and (films := self._other_films(before, left)):
            for film in films:
                purge = partial(self._store.purge_received, film, before, self._proof, now)
                if _is_gone(partial(purge, self._objects.remove), stuck):
                    number += 1
                else:
                    left.add(film.number)
        return number

    def _other_films(self, before: datetime, left: Collection[int]) -> list[Received]:
        """Those that may go, without the ones that are left: however many, others are behind."""
        films = self._store.purgeable_received(before, self._proof, _BATCH + len(left))
        return [film for film in films if film.number not in left]

    def _purge_results(self, now: datetime, stuck: list[StorageError]) -> int:
        """One whose file stays is purged all the same: its row says so, and its file is swept."""
        before, number = _before(self._retention.results_days, now), 0
        store, proof, remove = self._store, self._proof, self._objects.remove
        while before and (made := store.purgeable_results(before, proof, _BATCH)):
            for one in made:
                purge = partial(store.purge_result, one, before, proof, now, remove)
                number += _is_gone(purge, stuck)
        return number


def sweep_unknown(store: JobStore, objects: ObjectStore, older_than_s: float = _DAY_S) -> int:
    """Kept files of at least that age that no row knows are gone; returns how many.

    A crash leaves them, or a database that was away between a file and its row.

    Raises:
        StoreMismatchError: the store is another database's, whose rows may know them.
        StorageError: nobody can tell whose it is, or database or objects are away.
    """
    demand_ours(objects)
    names = (name for name in objects.stale(older_than_s) if name.startswith(_OURS))
    number, stuck = 0, list[StorageError]()
    while some := list(islice(names, _NAMES)):
        for name in store.unknown(some):
            drop = partial(objects.drop_stale, name, older_than_s)
            number += _is_gone(partial(store.drop_unknown, name, drop), stuck)
    if number:
        _log.info("objects without a row removed", objects=number)
    if stuck:
        _log.error("objects without a row not removed", objects=len(stuck), error=str(stuck[0]))
    return number


def _is_gone(remove: Callable[[], bool], stuck: list[StorageError]) -> bool:
    """Whether it was removed; where it could not be, `stuck` has the reason, and others go on.

    Raises:
        StoreUnavailableError, ObjectsUnavailableError: no other could be removed either.
    """
    try:
        return remove()
    except (StoreUnavailableError, ObjectsUnavailableError):
        raise
    except StorageError as fault:
        stuck.append(fault)
        return False


def _before(days: float | None, now: datetime) -> datetime | None:
    return None if days is None else now - timedelta(days=days)
