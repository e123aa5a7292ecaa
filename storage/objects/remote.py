"""Objects of a service, and copies of them on this machine."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    ObjectUnreadableError,
    StorageError,
)
from storage.jobs import ObjectRef
from storage.objects.service import Service
from storage.objects.whole import (
    FOLDERS,
    MARK,
    PART,
    Data,
    checked,
    joined,
    plain,
    ref_of,
    translated,
)

_A_MARK, _MARK_BYTES = re.compile("[0-9a-f]{32}"), 32
_COPIES = 64  # of remote objects that nobody is known to read any more
_COPY_AGE_S = 3600.0  # a batch is sent, and a film decoded, long before that
_FOLDER = f"vald-copies-{hashlib.sha256(platform.node().encode()).hexdigest()[:16]}-"
"""Of this machine: others that share its folder do not see our locks. A digest, since one host's
name may begin with another's."""
_NEW_S = 60.0  # a folder is made and then locked: no other process takes it in between


class FsspecObjectStore:
    """Objects behind any fsspec URL, such as s3://bucket/prefix; as durable as that service is."""

    def __init__(self, root: str, mark: str = "") -> None:
        """Name the place of that mark, which is not looked at for each object; see Service.

        A service that is away does not answer, and nothing takes its place.
        """
        self.mark = mark
        self._service = Service(root)
        self._copies = _Copies()

    def found(self) -> str:
        """See ObjectStore."""
        try:
            said = self._service.get(MARK, _MARK_BYTES).decode(errors="replace").strip()
        except ObjectMissingError:
            return ""
        if not _A_MARK.fullmatch(said):  # a page of whatever is before the service
            raise ObjectsUnavailableError(f"objects: the service gave {MARK}, which is no mark")
        return said

    def is_used(self) -> bool:
        """See ObjectStore."""
        return any(True for folder in FOLDERS for _ in self._service.listed(folder))

    def mark_as(self, own: str) -> None:
        """See ObjectStore."""
        if not self.found():
            self._service.put(MARK, own.encode())
        self.mark = self.found()

    def mark_anew(self, own: str) -> None:
        """See ObjectStore."""
        if self.found() == self.mark:
            self._service.put(MARK, own.encode())
        self.mark = self.found()

    def keep(self, name: str, data: Data) -> ObjectRef:
        """See ObjectStore."""
        whole = joined(data)
        self._service.put(plain(name), whole)
        return ref_of(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore.

        Other bytes are the object's only where the service gives them twice, and lists it with as
        many: what is before it may answer with a page of its own.
        """
        found = self._given(ref)
        if ref_of(ref.name, found) != ref:
            before, found = found, self._given(ref)
            is_damaged = found == before and self._service.listed_bytes(ref.name) == len(found)
            if not is_damaged and ref_of(ref.name, found) != ref:
                raise self._alone(f"object {ref.name}: the service gave something else")
        return checked(ref, found)

    def _given(self, ref: ObjectRef) -> bytes:
        try:
            return self._service.get(plain(ref.name), ref.size_bytes)
        except ObjectsUnavailableError as fault:
            if isinstance(fault.__cause__, PermissionError):
                raise self._alone(str(fault)) from fault
            raise

    def _alone(self, why: str) -> ObjectUnreadableError:
        """What is wrong with one object, such as for a filter before the service.

        Raises:
            ObjectsUnavailableError: it is not that one alone: what is asked for the mark does not
                give that either.
        """
        self.found()
        return ObjectUnreadableError(why)

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        self._service.changed_s(plain(ref.name))

    def local_path(self, ref: ObjectRef) -> Path:
        """A checked copy in a folder that only this process's user may read."""
        return self._copies.of(ref, self.read(ref))

    def whole_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        return self.local_path(ref)

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with suppress(ObjectMissingError):
            self._service.remove(plain(ref.name))

    def stale(self, older_than_s: float) -> Iterator[str]:
        """See ObjectStore."""
        before = time.time() - older_than_s
        every = self._service.listed()
        yield from (name for name, at in every if at <= before and name != MARK)

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

    A copy stays for an hour at least: batches to many destinations are read at once, and one whose
    file went away while it waited for its turn would seem damaged.
    """

    def __init__(self) -> None:
        self._folder = _Folder()
        _sweep(self._folder.path.parent)
        self._paths: dict[Path, float] = {}
        self._lock = threading.Lock()

    def of(self, ref: ObjectRef, data: bytes) -> Path:
        """The path of a copy; the oldest, beyond the limit and an hour, are gone."""
        what = f"copy of object {ref.name}"
        with self._lock, translated(what):
            try:
                path = self._written(f"{ref.digest}.dcm", data)
            except FileNotFoundError as fault:  # the copy's folder: the object is where it was
                raise StorageError(f"{what}: {fault.strerror}") from fault
            self._paths.pop(path, None)
            self._paths[path] = time.monotonic()
            self._forget()
        return path

    def _written(self, name: str, data: bytes) -> Path:
        if not _is_private(self._folder.path):  # whoever tidies the temporary folder took it
            self._folder, self._paths = _Folder(), {}
        path = self._folder.path / name
        scratch = path.with_suffix(PART)
        scratch.write_bytes(data)
        return scratch.replace(path)

    def _forget(self) -> None:
        before = time.monotonic() - _COPY_AGE_S
        spare = max(0, len(self._paths) - _COPIES)
        for path in [path for path, at in self._paths.items() if at < before][:spare]:
            del self._paths[path]
            path.unlink(missing_ok=True)


class _Folder:
    """A folder that goes with its process, or before; locked, where such things can be at all.

    A process that was killed could not take its folder with it: the next one does, as a lock that
    ends with its process tells whose is left over.
    """

    def __init__(self) -> None:
        place = Path(tempfile.gettempdir())
        place.mkdir(mode=0o700, parents=True, exist_ok=True)  # which may have been tidied, too
        # Private, since the copies are films: nobody else may read them or put others there.
        self.path = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=place))
        held: int | None = None
        with suppress(OSError):
            held = _locked(self.path)
        weakref.finalize(self, _remove, self.path, held)


def _is_private(folder: Path) -> bool:
    """Whether it is there, and this process's user alone may use it.

    Its other bits are its parent's, such as setgid where a volume belongs to a group.
    """
    try:
        found = folder.stat(follow_symlinks=False)
    except OSError:
        return False
    is_closed = stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return is_closed and found.st_uid == os.geteuid()


def _sweep(place: Path) -> None:
    """Remove the folders there of this user's processes that are no more."""
    for folder in place.glob(f"{_FOLDER}*"):
        with suppress(OSError):
            if folder.stat(follow_symlinks=False).st_mtime < time.time() - _NEW_S:
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
    if _is_private(folder):  # another may have made one of its name
        shutil.rmtree(folder, ignore_errors=True)
    if held is not None:
        os.close(held)
