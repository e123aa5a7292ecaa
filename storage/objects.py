"""Part 10 files, kept whole or not at all."""

import errno
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import fsspec

from storage.errors import ObjectMissingError, OutOfSpaceError, StorageError
from storage.jobs import ObjectRef

_PART = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Chunks = Iterable[bytes | bytearray | memoryview]


class ObjectStore(Protocol):
    """Named, immutable bytes."""

    def keep(self, name: str, data: bytes | Chunks) -> ObjectRef:
        """The bytes are durable under `name`; a name already taken has its bytes replaced whole.

        Raises:
            OutOfSpaceError: no space; nothing was kept and nothing is left behind.
            ValueError: the name is not a plain relative path.
        """
        ...

    def read(self, ref: ObjectRef) -> bytes:
        """The bytes, checked.

        Raises:
            ObjectMissingError: they are gone, or are not what was kept.
        """
        ...

    def local_path(self, ref: ObjectRef) -> Path:
        """A file on this machine that holds the bytes.

        Raises:
            ObjectMissingError: they are gone.
            StorageError: this store keeps nothing on this machine.
        """
        ...

    def free_bytes(self) -> int:
        """How much more could be kept."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Unfinished files of at least that age are gone; returns how many there were."""
        ...


def open_store(root: str) -> ObjectStore:
    """The store at `root`: a folder of this machine, or any URL that fsspec knows (s3://…)."""
    if "://" in root and not root.startswith("file://"):
        return FsspecObjectStore(root)
    return LocalObjectStore(Path(root.removeprefix("file://")))


class LocalObjectStore:
    """A folder of a local disk: temporary file, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._root.mkdir(parents=True, exist_ok=True)

    def keep(self, name: str, data: bytes | Chunks) -> ObjectRef:
        """See ObjectStore."""
        path = self._root / _plain(name)
        scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PART}")
        try:
            self._make_folder(path.parent)
            digest, size_bytes = _write(scratch, data)
            scratch.replace(path)
            _sync_folder(path.parent)
        except OSError as fault:
            _remove(scratch)
            if fault.errno in _FULL:
                raise OutOfSpaceError(f"no space left for objects in {self._root}") from fault
            raise StorageError(f"objects: {os.strerror(fault.errno or 0)}: {path}") from fault
        return ObjectRef(name=name, digest=digest, size_bytes=size_bytes)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        return _checked(ref, self.local_path(ref).read_bytes())

    def local_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        path = self._root / _plain(ref.name)
        if not path.is_file():
            raise ObjectMissingError(f"kept object {ref.name} is gone")
        return path

    def free_bytes(self) -> int:
        """See ObjectStore."""
        return shutil.disk_usage(self._root).free

    def sweep(self, older_than_s: float) -> int:
        """See ObjectStore."""
        before = time.time() - older_than_s
        stale = [p for p in self._root.rglob(f"*{_PART}") if p.stat().st_mtime < before]
        for path in stale:
            _remove(path)
        return len(stale)

    def _make_folder(self, folder: Path) -> None:
        """The folder and its parents exist, durably: each new one is in its synced parent."""
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            _sync_folder(path.parent)


class FsspecObjectStore:
    """Objects behind any fsspec URL, such as s3://bucket/prefix; as durable as that service is."""

    def __init__(self, root: str) -> None:
        self._files: Any
        self._files, self._root = fsspec.core.url_to_fs(root)

    def keep(self, name: str, data: bytes | Chunks) -> ObjectRef:
        """See ObjectStore; the service makes the object visible whole when it is closed."""
        whole = data if isinstance(data, bytes) else b"".join(data)
        path = self._path(name)
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        self._files.pipe_file(path, whole)
        return _ref(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        try:
            return _checked(ref, self._files.cat_file(self._path(ref.name)))
        except FileNotFoundError as fault:
            raise ObjectMissingError(f"kept object {ref.name} is gone") from fault

    def local_path(self, ref: ObjectRef) -> Path:
        """A checked copy in this machine's temporary folder, made once."""
        copy = Path(os.environ.get("TMPDIR", "/tmp")) / "vald-objects" / f"{ref.digest}.dcm"  # noqa: S108
        if not copy.is_file():
            LocalObjectStore(copy.parent).keep(copy.name, self.read(ref))
        return copy

    def free_bytes(self) -> int:
        """Such services have no end."""
        return 1 << 62

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002
        """Nothing is ever half there."""
        return 0

    def _path(self, name: str) -> str:
        return f"{self._root}/{_plain(name)}"


class MemoryObjectStore:
    """The same contract in memory, for tests; `local_path` writes to the folder it was given."""

    def __init__(self, folder: Path, capacity_bytes: int = 1 << 30) -> None:
        self._folder, self._capacity = folder, capacity_bytes
        self._kept: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def keep(self, name: str, data: bytes | Chunks) -> ObjectRef:
        """See ObjectStore."""
        whole = data if isinstance(data, bytes) else b"".join(data)
        with self._lock:
            if len(whole) > self.free_bytes():
                raise OutOfSpaceError("no space left for objects in memory")
            self._kept[str(_plain(name))] = whole
        return _ref(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        if ref.name not in self._kept:
            raise ObjectMissingError(f"kept object {ref.name} is gone")
        return _checked(ref, self._kept[ref.name])

    def local_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        path = self._folder / ref.digest
        path.write_bytes(self.read(ref))
        return path

    def free_bytes(self) -> int:
        """See ObjectStore."""
        return self._capacity - sum(map(len, self._kept.values()))

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002
        """See ObjectStore."""
        return 0


def _plain(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"object name {name!r} is not a plain relative path")
    return path


def _write(path: Path, data: bytes | Chunks) -> tuple[str, int]:
    """The file is on the disk, not only in its cache; SHA-256 and size."""
    hasher, size_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in (data,) if isinstance(data, bytes) else data:
            hasher.update(chunk)
            size_bytes += file.write(chunk)
        _sync(file)
    return hasher.hexdigest(), size_bytes


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _ref(name: str, data: bytes) -> ObjectRef:
    return ObjectRef(name=name, digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _checked(ref: ObjectRef, data: bytes) -> bytes:
    if _ref(ref.name, data) != ref:
        raise ObjectMissingError(f"kept object {ref.name} is damaged: not the bytes that were kept")
    return data
