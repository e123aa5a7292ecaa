"""How full the node is: disk and queue against the limits of the configuration."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import structlog

from dicom_node.config import Limits
from storage.errors import StorageError
from storage.objects import ObjectStore
from storage.store import JobStore

_log = structlog.get_logger()

_LOOK_S = 1.0
"""A look at disk and queue holds for so long: senders come faster than these change."""
_MB = 1 << 20


class Level(IntEnum):
    """What the node takes."""

    FREE = 0
    SOFT = 1
    """No new association that proposes storage: its sender is told to try again."""
    HARD = 2
    """No film, on any association: answered 0xA700."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A level and what has reached it."""

    level: Level
    reason: str = ""


class Pressure:
    """Looks at disk and queue, at most once a second; safe to call from several threads."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        limits: Limits,
        clock_s: Callable[[], float],
    ) -> None:
        self._store, self._objects, self._limits = store, objects, limits
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._look = Look(level=Level.FREE)
        self._until_s = float("-inf")
        self._looking = False

    def look(self) -> Look:
        """What holds now. A store that is away has no say: the film itself will tell."""
        with self._lock:
            due = self._clock_s() >= self._until_s and not self._looking
            self._looking = self._looking or due
        if due:
            self._look_again()
        return self._look

    def _look_again(self) -> None:
        """Outside the lock: a database that hangs holds up one sender, and the others go by the
        last look.
        """
        try:
            self._change(self._taken())
        finally:
            self._until_s = self._clock_s() + _LOOK_S
            self._looking = False

    def _change(self, look: Look) -> None:
        if look.level is not self._look.level:
            emit = _log.warning if look.level else _log.info
            emit("pressure changed", level=look.level.name.lower(), reason=look.reason)
        self._look = look

    def _taken(self) -> Look:
        (free_mb, whose), queue = min(self._disks(), default=(None, "")), self._queue()
        limits, disk = self._limits, f"{free_mb} MB of disk left{whose}"
        films = f"{queue} films wait"
        for level, least_mb, most in (
            (Level.HARD, limits.hard_free_mb, limits.hard_queue),
            (Level.SOFT, limits.soft_free_mb, limits.soft_queue),
        ):
            if free_mb is not None and free_mb < least_mb:
                return Look(level=level, reason=disk)
            if queue is not None and queue >= most:
                return Look(level=level, reason=films)
        return Look(level=Level.FREE)

    def _disks(self) -> Iterator[tuple[int, str]]:
        """What is free for objects and for rows, which may be on a disk of their own.

        One that does not tell has no say; the others and the queue are judged all the same.
        """
        for free_bytes, whose in (
            (self._objects.free_bytes, ""),
            (self._store.free_bytes, " for the database"),
        ):
            with suppress(StorageError):
                yield free_bytes() // _MB, whose

    def _queue(self) -> int | None:
        try:
            return self._store.waiting()
        except StorageError:
            return None
