"""Objects in memory, for tests."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from storage.errors import ObjectMissingError, OutOfSpaceError
from storage.jobs import ObjectRef
from storage.objects.whole import Data, checked, joined, plain, ref_of


class MemoryObjectStore:
    """The same contract in memory, for tests; `local_path` writes to the folder it was given."""

    def __init__(self, folder: Path, capacity_bytes: int = 1 << 30) -> None:
        self.mark = ""
        self._folder, self._capacity = folder, capacity_bytes
        self._kept: dict[str, bytes] = {}
        self._at_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def found(self) -> str:
        """See ObjectStore."""
        return self.mark

    def is_used(self) -> bool:
        """See ObjectStore."""
        return bool(self._kept)

    def mark_as(self, own: str) -> None:
        """See ObjectStore."""
        self.mark = self.mark or own

    def mark_anew(self, own: str) -> None:
        """See ObjectStore."""
        self.mark = own

    def keep(self, name: str, data: Data) -> ObjectRef:
        """See ObjectStore."""
        whole = joined(data)
        with self._lock:
            if len(whole) > self.free_bytes():
                raise OutOfSpaceError("no space left for objects in memory")
            self._kept[plain(name)] = whole
            self._at_s[name] = time.time()
        return ref_of(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        if ref.name not in self._kept:
            raise ObjectMissingError(f"object {ref.name} is gone")
        return checked(ref, self._kept[ref.name])

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        if ref.name not in self._kept:
            raise ObjectMissingError(f"object {ref.name} is gone")

    def local_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        path = self._folder / ref.digest
        path.write_bytes(self.read(ref))
        return path

    def whole_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        return self.local_path(ref)

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        self._kept.pop(plain(ref.name), None)

    def stale(self, older_than_s: float) -> Iterator[str]:
        """See ObjectStore."""
        yield from [name for name in self._kept if self._age_s(name) >= older_than_s]

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        """See ObjectStore."""
        with self._lock:
            stale = name in self._kept and self._age_s(name) >= older_than_s
            if stale:
                del self._kept[name]
            return stale

    def _age_s(self, name: str) -> float:
        return time.time() - self._at_s[name]

    def free_bytes(self) -> int:
        """See ObjectStore."""
        return self._capacity - sum(map(len, self._kept.values()))

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002
        """See ObjectStore."""
        return 0
