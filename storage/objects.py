"""Part 10 files, kept whole or not at all."""

import errno
import hashlib
import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import fsspec

from storage import faults
from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    OutOfSpaceError,
    StorageError,
    StoreMismatchError,
)
from storage.faults import Point
from storage.jobs import ObjectRef

_PART = ".part"
_MARK = ".vald-objects"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: the process's limit, setrlimit(2)
_MACHINES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # which say nothing of a volume
_COPIES = 64  # of remote objects that nobody is known to read any more
_COPY_AGE_S = 3600.0  # a batch is sent, and a film decoded, long before that

Piece = bytes | bytearray | memoryview
Data = Piece | Iterable[Piece]


class ObjectStore(Protocol):
    """Named, immutable bytes.

    All may raise `ObjectsUnavailableError`: the volume or service is away, and nothing is known of
    what it holds.
    """

    mark: str
    """What tells this store from another of the same address; empty where nothing has to."""

    def keep(self, name: str, data: Data) -> ObjectRef:
        """The bytes are durable under `name`; a name already taken has its bytes replaced whole.

        Raises:
            OutOfSpaceError: no space; nothing was kept and nothing is left behind.
            StorageError: the disk or service failed otherwise; nothing was kept.
            ValueError: the name is not a plain relative path, or ends as unfinished files do.
        """
        ...

    def read(self, ref: ObjectRef) -> bytes:
        """The bytes, checked.

        Raises:
            ObjectMissingError: they are gone, or are not what was kept.
        """
        ...

    def demand(self, ref: ObjectRef) -> None:
        """Return if there is an object of that name; its bytes are not looked at.

        Raises:
            ObjectMissingError: there is none.
        """
        ...

    def local_path(self, ref: ObjectRef) -> Path:
        """A file on this machine that holds the bytes; to be read soon, not to be kept.

        Raises:
            ObjectMissingError: they are gone.
        """
        ...

    def remove(self, ref: ObjectRef) -> None:
        """There is no object of that name; it is no error if there was none.

        Raises:
            StorageError: the disk or service failed; it may be there still.
        """
        ...

    def stale(self, older_than_s: float) -> Iterator[str]:
        """The names of the objects of at least that age."""
        ...

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        """Whether the object was of at least that age, and is gone by our hand."""
        ...

    def free_bytes(self) -> int:
        """How much more could be kept."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Unfinished files of at least that age are gone; returns how many there were."""
        ...


def is_whole(objects: ObjectStore, ref: ObjectRef) -> bool:
    """Whether the object is there with the bytes that were kept.

    Raises:
        StorageError: the disk or service is away or in trouble, and nobody can tell.
    """
    try:
        objects.read(ref)
    except ObjectMissingError:
        return False
    return True


def open_store(root: str, mark: str = "") -> ObjectStore:
    """The store at `root`: a folder of this machine, or any URL that fsspec knows (s3://…).

    The folder must be the one of that `mark`, where one is given.
    """
    if "://" in root and not root.startswith("file://"):
        return FsspecObjectStore(root)
    return LocalObjectStore(Path(root.removeprefix("file://")), mark)


class LocalObjectStore:
    """A folder of a local disk: temporary file, fsync, rename, fsync of the folder.

    A file in it holds its mark. Where its volume is gone another folder may have its name: what was
    kept would seem lost, and what is kept now would be.
    """

    def __init__(self, root: Path, mark: str = "") -> None:
        """Open the folder of that mark, also while it is away; without one, make it or take it."""
        self._root = root.resolve()
        self.mark = mark or _marked(self._root)
        self._durable: set[Path] = set()

    def keep(self, name: str, data: Data) -> ObjectRef:
        """See ObjectStore."""
        path = self._root / _plain(name)
        scratch = path.with_name(f".{uuid.uuid4().hex}{_PART}")
        with self._there(f"object {name}"):
            try:
                self._make(path.parent)
                digest, size_bytes = _write(scratch, data)
                faults.reach(Point.WRITTEN)
                scratch.replace(path)
                _sync_folder(path.parent)
            finally:
                scratch.unlink(missing_ok=True)  # there only if something above failed
        self._demand_root()  # it was so all the while
        return ObjectRef(name=name, digest=digest, size_bytes=size_bytes)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        with self._there(f"object {ref.name}"):
            return _checked(ref, (self._root / _plain(ref.name)).read_bytes())

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        self.local_path(ref)

    def local_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        path = self._root / _plain(ref.name)
        with self._there(f"object {ref.name}"):
            if not path.is_file():
                raise ObjectMissingError(f"object {ref.name} is gone")
        return path

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with self._there(f"object {ref.name}"):
            (self._root / _plain(ref.name)).unlink(missing_ok=True)

    def stale(self, older_than_s: float) -> Iterator[str]:
        """See ObjectStore."""
        before = time.time() - older_than_s
        with self._there("objects"):
            for path in self._root.rglob("*"):
                kept = path.suffix != _PART and path.name != _MARK and path.is_file()
                if kept and path.stat().st_mtime < before:
                    yield path.relative_to(self._root).as_posix()

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        """See ObjectStore."""
        with self._there(f"object {name}"):
            return _remove_stale(self._root / _plain(name), time.time() - older_than_s)

    def free_bytes(self) -> int:
        """See ObjectStore."""
        with self._there("objects"):
            return shutil.disk_usage(self._root).free

    def sweep(self, older_than_s: float) -> int:
        """See ObjectStore."""
        before = time.time() - older_than_s
        with self._there("objects"):
            return sum(_remove_stale(path, before) for path in self._root.rglob(f"*{_PART}"))

    def _make(self, folder: Path) -> None:
        """The folder is there, durably: also where another thread or process has just made it.

        That one may not have synced its parent yet, so each process does once.
        """
        inner = [path for path in (folder, *folder.parents) if path.is_relative_to(self._root)]
        for path in reversed(inner[:-1]):  # the last is the root
            path.mkdir(exist_ok=True)
            if path not in self._durable:
                _sync_folder(path.parent)
                self._durable.add(path)

    @contextmanager
    def _there(self, what: str) -> Iterator[None]:
        """The block looks into the folder of this mark: what is missing from it is missing."""
        self._demand_root()
        try:
            with _translated(what):
                yield
        except ObjectMissingError:
            self._demand_root()
            raise

    def _demand_root(self) -> None:
        """Return if the folder is the one of this mark.

        Raises:
            ObjectsUnavailableError: it is gone, or another has its name.
        """
        with _translated(f"objects in {self._root}"):
            found = _mark_of(self._root)
        if found != self.mark:
            self._durable.clear()  # it may come back as another device
            raise ObjectsUnavailableError(
                f"objects in {self._root}: the folder or its volume is gone, or is another: "
                f"its {_MARK} should say {self.mark}"
            )


class FsspecObjectStore:
    """Objects behind any fsspec URL, such as s3://bucket/prefix; as durable as that service is."""

    mark = ""  # a service that is away does not answer; none takes its place

    def __init__(self, root: str) -> None:
        """Name the place.

        Raises:
            StoreMismatchError: fsspec knows no such kind of place, or its driver is not installed.
        """
        self._files: Any
        try:
            self._files, self._root = fsspec.core.url_to_fs(root)
        except (ImportError, ValueError) as fault:
            raise StoreMismatchError(f"storage.objects: {fault}") from fault
        self._copies = _Copies()

    def keep(self, name: str, data: Data) -> ObjectRef:
        """See ObjectStore; the service makes the object visible whole when it is closed."""
        whole, path = _whole(data), self._path(name)
        with _translated(f"object {name}"):
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._files.pipe_file(path, whole)
        return _ref(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        with _translated(f"object {ref.name}"):
            return _checked(ref, self._files.cat_file(self._path(ref.name)))

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with _translated(f"object {ref.name}"):
            self._files.info(self._path(ref.name))

    def local_path(self, ref: ObjectRef) -> Path:
        """A checked copy in a folder that only this process's user may read."""
        return self._copies.of(ref, self.read(ref))

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with suppress(ObjectMissingError), _translated(f"object {ref.name}"):
            self._files.rm_file(self._path(ref.name))

    def stale(self, older_than_s: float) -> Iterator[str]:
        """See ObjectStore."""
        with _translated("objects"):
            for path in self._files.find(self._root):
                name = path.removeprefix(self._root).lstrip("/")
                if self._age_s(name) >= older_than_s:
                    yield name

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        """See ObjectStore."""
        with suppress(ObjectMissingError), _translated(f"object {name}"):
            if self._age_s(name) >= older_than_s:
                self._files.rm_file(self._path(name))
                return True
        return False

    def _age_s(self, name: str) -> float:
        return time.time() - float(self._files.modified(self._path(name)).timestamp())

    def free_bytes(self) -> int:
        """Such services have no end."""
        return 1 << 62

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002 - nothing is ever half there
        """See ObjectStore."""
        return 0

    def _path(self, name: str) -> str:
        return f"{self._root}/{_plain(name)}"


class _Copies:
    """The latest copies of remote objects, in a private folder that goes with the process.

    A copy stays for an hour at least: batches to many destinations are read at once, and one whose
    file went away while it waited for its turn would seem damaged.
    """

    def __init__(self) -> None:
        # Private, since the copies are films: nobody else may read them or put others there.
        self._folder = Path(tempfile.mkdtemp(prefix="vald-objects-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._paths: dict[Path, float] = {}
        self._lock = threading.Lock()

    def of(self, ref: ObjectRef, data: bytes) -> Path:
        """The path of a copy; the oldest, beyond the limit and an hour, are gone."""
        path = self._folder / f"{ref.digest}.dcm"
        with self._lock, _translated(f"copy of object {ref.name}"):
            scratch = path.with_suffix(_PART)
            scratch.write_bytes(data)
            scratch.replace(path)
            self._paths.pop(path, None)
            self._paths[path] = time.monotonic()
            self._forget()
        return path

    def _forget(self) -> None:
        before = time.monotonic() - _COPY_AGE_S
        spare = max(0, len(self._paths) - _COPIES)
        for path in [path for path, at in self._paths.items() if at < before][:spare]:
            del self._paths[path]
            path.unlink(missing_ok=True)


class MemoryObjectStore:
    """The same contract in memory, for tests; `local_path` writes to the folder it was given."""

    mark = ""

    def __init__(self, folder: Path, capacity_bytes: int = 1 << 30) -> None:
        self._folder, self._capacity = folder, capacity_bytes
        self._kept: dict[str, bytes] = {}
        self._at_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def keep(self, name: str, data: Data) -> ObjectRef:
        """See ObjectStore."""
        whole = _whole(data)
        with self._lock:
            if len(whole) > self.free_bytes():
                raise OutOfSpaceError("no space left for objects in memory")
            self._kept[_plain(name)] = whole
            self._at_s[name] = time.time()
        return _ref(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        if ref.name not in self._kept:
            raise ObjectMissingError(f"object {ref.name} is gone")
        return _checked(ref, self._kept[ref.name])

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        if ref.name not in self._kept:
            raise ObjectMissingError(f"object {ref.name} is gone")

    def local_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        path = self._folder / ref.digest
        path.write_bytes(self.read(ref))
        return path

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        self._kept.pop(_plain(ref.name), None)

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


def _plain(name: str) -> str:
    path = PurePosixPath(name)
    plain = str(path) == name and name != "." and not path.is_absolute()
    if not plain or ".." in path.parts or "\0" in name or name.endswith(_PART):
        raise ValueError(f"object name {name!r} is not a plain relative path")
    return name


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """What the disk or service says, as an error that says whose fault it is."""
    try:
        yield
    except FileNotFoundError as fault:
        raise ObjectMissingError(f"{what} is gone") from fault
    except (ConnectionError, TimeoutError) as fault:
        raise ObjectsUnavailableError(f"{what}: {fault}") from fault
    except OSError as fault:
        if fault.errno in _FULL:
            raise OutOfSpaceError(f"{what}: no space left") from fault
        raise StorageError(f"{what}: {fault.strerror or fault}") from fault


def _mark_of(root: Path) -> str:
    """What the folder's mark says; empty where there is none, or no folder."""
    try:
        return (root / _MARK).read_text(encoding="utf-8", errors="replace").strip()
    except OSError as fault:
        if fault.errno in _MACHINES:
            raise
        return ""


def _marked(root: Path) -> str:
    """The mark of the folder, which is there and has one from now on.

    Raises:
        StorageError: it cannot be made.
    """
    with _translated(f"objects in {root}"):
        _make_folder(root)
        _write_once(root / _MARK, uuid.uuid4().hex.encode())
    if mark := _mark_of(root):
        return mark
    raise StorageError(f"objects in {root}: {_MARK} is empty: remove it")


def _make_folder(folder: Path) -> None:
    """The folder and its parents exist, durably: each new one is in its synced parent."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _write_once(path: Path, data: bytes) -> None:
    """The file is there, durably, with these bytes or those of whoever was first."""
    if path.exists():
        return
    scratch = path.with_name(f".{uuid.uuid4().hex}{_PART}")
    try:
        _write(scratch, data)
        try:
            path.hardlink_to(scratch)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            scratch.replace(path)
        _sync_folder(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _write(path: Path, data: Data) -> tuple[str, int]:
    """The file is on the disk, not only in its cache; SHA-256 and size."""
    hasher, size_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in _pieces(data):
            hasher.update(piece)
            size_bytes += file.write(piece)
        _sync(file)
    return hasher.hexdigest(), size_bytes


def _pieces(data: Data) -> Iterable[Piece]:
    return (data,) if isinstance(data, Piece) else data


def _whole(data: Data) -> bytes:
    return b"".join(_pieces(data))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(path: Path, before: float) -> bool:
    """Whether the file was that old and is gone by our hand."""
    try:
        stale = path.stat().st_mtime < before
        if stale:
            path.unlink()
    except FileNotFoundError:  # its writer finished meanwhile
        return False
    return stale


def _ref(name: str, data: bytes) -> ObjectRef:
    return ObjectRef(name=name, digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _checked(ref: ObjectRef, data: bytes) -> bytes:
    if _ref(ref.name, data) != ref:
        raise ObjectMissingError(f"object {ref.name} is damaged: not the bytes that were kept")
    return data
