"""A process that purges what nobody needs any more, at once and again and again, and may be killed.

The node's own purge comes once an hour. Of each object it notes first what it was: the bytes that
were kept are known to the tests though their file is gone.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node import logs, wiring
from dicom_node.config import Retention
from dicom_node.work.retention import Purger
from storage.errors import StorageError
from storage.jobs import ObjectRef
from storage.objects import LocalObjectStore
from tests.conftest import REPOSITORY

_EVERY_S = 0.5
_HEX = 64
"""Digits of a SHA-256; a note is two of them."""
_AT_ONCE = Retention(received_days=0, results_days=0)


@dataclass(slots=True, kw_only=True)
class Purging:
    """The process, and what it noted."""

    config: Path
    notes: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """It purges, unless it does already."""
        ended = None if self.process is None else self.process.poll()
        if self.process is not None and ended is None:
            return
        assert ended in {None, -signal.SIGKILL}, "the purge ended by itself: see the test's stderr"
        command = [sys.executable, "-m", __name__, str(self.config), str(self.notes)]
        self.process = subprocess.Popen(command, cwd=REPOSITORY)

    @property
    def pid(self) -> int:
        """Of the process, which was started."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, if it was started."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def contents(self, kept: Iterable[Path]) -> dict[str, str]:
        """By the SHA-256 of each object that is kept or was purged: the digest of its data set."""
        known: dict[str, str] = {}
        for path in kept:
            with suppress(FileNotFoundError):  # purged just now, and so noted
                data = path.read_bytes()
                known[hashlib.sha256(data).hexdigest()] = content(data)
        return known | self.purged()

    def purged(self) -> dict[str, str]:
        """By the SHA-256 of each object that was purged: the digest of its data set."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return {line[:_HEX]: line[_HEX:] for line in lines}


def content(part10: bytes) -> str:
    """A digest of the data set: who writes a file puts a meta group of its own before it.

    That begins after preamble and prefix with its own length (PS3.10 7.1), a UL of 12 bytes.
    """
    length = int.from_bytes(part10[140:144], "little")
    return hashlib.sha256(part10[144 + length :]).hexdigest()


class _Noting(LocalObjectStore):
    """Notes what it removes."""

    def __init__(self, root: Path, mark: str, notes: Path) -> None:
        super().__init__(root, mark)
        self._notes = notes

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore. Before: whoever does not find the file finds the note."""
        if (path := self._root / ref.name).exists():  # else an earlier purge was killed just now
            data = path.read_bytes()
            with self._notes.open("a") as notes:
                notes.write(f"{hashlib.sha256(data).hexdigest()}{content(data)}\n")
        super().remove(ref)


def _main(config: Path, notes: Path) -> None:
    """Purge until killed."""
    settings = wiring.read_config(config, os.environ)
    logs.configure("WARNING", settings.logging.format)
    store = wiring.open_kept_store(settings)
    mark = wiring.open_objects(settings, store).mark
    purger = Purger(
        store=store,
        objects=_Noting(Path(settings.storage.objects), mark, notes),
        retention=_AT_ONCE,
        queried=settings.queried,
        known=frozenset(settings.everywhere),
    )
    while not threading.Event().wait(_EVERY_S):
        try:
            purger.purge(wiring.now())
        except StorageError as fault:
            print(f"purge: {fault}", file=sys.stderr)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
