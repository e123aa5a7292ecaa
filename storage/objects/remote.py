"""Objects of a service, and copies of them on this machine."""

import fcntl
import os
import platform
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from storage.errors import ObjectMissingError, StorageError
from storage.jobs import ObjectRef
from storage.objects.service import Service
from storage.objects.whole import PART, Data, checked, joined, plain, ref_of, translated

_COPIES = 64  # of remote objects that nobody is known to read any more
_COPY_AGE_S = 3600.0  # a batch is sent, and a film decoded, long before that
_FOLDER = f"vald-copies-{platform.node()}-"
"""Of this machine: others that share its folder do not see our locks."""
_NEW_S = 60.0  # a folder is made and then locked: no other process takes it in between


class FsspecObjectStore:
    """Objects behind any fsspec URL, such as s3://bucket/prefix; as durable as that service is."""

    mark = ""  # a service that is away does not answer; none takes its place

    def __init__(self, root: str) -> None:
        """Name the place; see Service."""
        self._service = Service(root)
        self._copies = _Copies()

    def keep(self, name: str, data: Data) -> ObjectRef:
        """See ObjectStore."""
        whole = joined(data)
        self._service.put(plain(name), whole)
        return ref_of(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        return checked(ref, self._service.get(plain(ref.name), ref.size_bytes))

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        self._service.changed_s(plain(ref.name))

    def local_path(self, ref: ObjectRef) -> Path:
        """A checked copy in a folder that only this process's user may read."""
        return self._copies.of(ref, self.read(ref))

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with suppress(ObjectMissingError):
            self._service.remove(plain(ref.name))

    def stale(self, older_than_s: float) -> Iterator[str]:
        """See ObjectStore."""
        before = time.time() - older_than_s
        yield from (name for name, at in self._service.listed() if at <= before)

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        """See ObjectStore."""
        with suppress(ObjectMissingError):
            if self._service.changed_s(plain(name)) <= time.time() - older_than_s:
                self._service.remove(name)
                return True
        return False

    def free_bytes(self) -> int:
        """Such services have no end, while they are there."""
        self._service.demand_bucket()
        return 1 << 62

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002 - nothing is ever half there
        """See ObjectStore."""
        return 0


class _Copies:
    """The latest copies of remote objects, in a private folder that goes with the process.

    A process that was killed could not take its folder with it: the next one does, as a lock that
    ends with its process tells whose is left over.

    A copy stays for an hour at least: batches to many destinations are read at once, and one whose
    file went away while it waited for its turn would seem damaged.
    """

    def __init__(self) -> None:
        # Private, since the copies are films: nobody else may read them or put others there.
        self._folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
        self._hold()
        _sweep(self._folder.parent)
        self._paths: dict[Path, float] = {}
        self._lock = threading.Lock()

    def of(self, ref: ObjectRef, data: bytes) -> Path:
        """The path of a copy; the oldest, beyond the limit and an hour, are gone."""
        path = self._folder / f"{ref.digest}.dcm"
        with self._lock, translated(f"copy of object {ref.name}"):
            if not self._folder.exists():  # whoever tidies the temporary folder took it
                self._hold()
            scratch = path.with_suffix(PART)
            try:
                scratch.write_bytes(data)
                scratch.replace(path)
            except FileNotFoundError as fault:  # the copy's folder: the object is where it was
                raise StorageError(f"copy of object {ref.name}: {fault.strerror}") from fault
            self._paths.pop(path, None)
            self._paths[path] = time.monotonic()
            self._forget()
        return path

    def _hold(self) -> None:
        """The folder is there, ours and locked, where such things can be locked at all."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        held: int | None = None
        with suppress(OSError):
            held = _locked(self._folder)
        weakref.finalize(self, _remove, self._folder, held)

    def _forget(self) -> None:
        before = time.monotonic() - _COPY_AGE_S
        spare = max(0, len(self._paths) - _COPIES)
        for path in [path for path, at in self._paths.items() if at < before][:spare]:
            del self._paths[path]
            path.unlink(missing_ok=True)


def _sweep(place: Path) -> None:
    """Remove the folders there of this user's processes that are no more."""
    for folder in place.glob(f"{_FOLDER}*"):
        with suppress(OSError):
            found = folder.stat(follow_symlinks=False)
            if found.st_uid == os.geteuid() and found.st_mtime < time.time() - _NEW_S:
                _remove(folder, _locked(folder))


def _locked(folder: Path) -> int:
    """A handle that holds the folder as long as its process lives.

    Raises:
        OSError: another process holds it, or it is gone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _remove(folder: Path, held: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if held is not None:
        os.close(held)
