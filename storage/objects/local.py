"""Objects in a folder of this machine."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from storage import faults
from storage.errors import ObjectMissingError, ObjectsUnavailableError, StorageError
from storage.faults import Point
from storage.jobs import ObjectRef
from storage.objects.whole import (
    FOLDERS,
    MARK,
    PART,
    Data,
    checked,
    lost,
    pieces,
    plain,
    translated,
)

_MACHINES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # which say nothing of a volume


class LocalObjectStore:
    """A folder of a local disk: temporary file, fsync, rename, fsync of the folder.

    A file in it holds its mark. Where its volume is gone another folder may have its name: what was
    kept would seem lost, and what is kept now would be. Its name, and those of the folders of films
    and results in it, may be links: where they lead is looked at anew each time, since all of a
    node's processes go by the name, and whoever moves a store may switch a link under them.
    """

    def __init__(self, root: Path, mark: str = "") -> None:
        """Open the folder of that mark, also while it is away; without one, make it or take it."""
        self._root = root.absolute()
        self.mark = mark
        self._durable: set[Path] = set()
        if not mark:
            self.mark_as(uuid.uuid4().hex)

    def found(self) -> str:
        """See ObjectStore."""
        with translated(f"objects in {self._root}"):
            return _mark_of(self._root)

    def is_used(self) -> bool:
        """See ObjectStore."""
        with translated(f"objects in {self._root}"):
            return any(True for name in FOLDERS for _ in _files(self._root / name))

    def mark_as(self, own: str) -> None:
        """See ObjectStore."""
        with translated(f"objects in {self._root}"):
            _make_folder(self._root)
            _write_once(self._root / MARK, own.encode())
        self.mark = self.found()
        if not self.mark:
            raise StorageError(f"objects in {self._root}: {MARK} is empty: remove it")

    def mark_anew(self, own: str) -> None:
        """See ObjectStore."""
        with translated(f"objects in {self._root}"), _held(self._root):
            if _mark_of(self._root) == self.mark:
                _write_over(self._root / MARK, own.encode())
        self.mark = self.found()

    def keep(self, name: str, data: Data) -> ObjectRef:
        """See ObjectStore."""
        path = self._root / plain(name)
        with self._there(f"object {name}"):
            folder = self._made(path.parent)
            scratch = folder / f".{uuid.uuid4().hex}{PART}"
            try:
                digest, size_bytes = _write(scratch, data)
                faults.reach(Point.WRITTEN)
                scratch.replace(folder / path.name)
                _sync_folder(folder)
            finally:
                scratch.unlink(missing_ok=True)  # there only if something above failed
        self._demand_root()  # it was so all the while
        if path.parent.resolve() != folder:
            raise ObjectsUnavailableError(f"object {name}: a link to its folder was switched")
        return ObjectRef(name=name, digest=digest, size_bytes=size_bytes)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        with self._there(f"object {ref.name}"):
            return checked(ref, (self._root / plain(ref.name)).read_bytes())

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        self.local_path(ref)

    def local_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        path = self._root / plain(ref.name)
        with self._there(f"object {ref.name}"):
            if not path.is_file():
                raise ObjectMissingError(f"object {ref.name} is gone")
        return path

    def whole_path(self, ref: ObjectRef) -> Path:
        """See ObjectStore."""
        self.read(ref)
        return self.local_path(ref)

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with self._there(f"object {ref.name}"):
            (self._root / plain(ref.name)).unlink(missing_ok=True)

    def stale(self, older_than_s: float) -> Iterator[str]:
        """See ObjectStore."""
        before = time.time() - older_than_s
        with self._there("objects"):
            for path in _files(self._root):
                if path.suffix != PART and path.name != MARK and _is_stale(path, before):
                    yield path.relative_to(self._root).as_posix()

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        """See ObjectStore."""
        with self._there(f"object {name}"):
            return _remove_stale(self._root / plain(name), time.time() - older_than_s)

    def free_bytes(self) -> int:
        """See ObjectStore."""
        with self._there("objects"):
            places = (self._root, *(self._root / name for name in FOLDERS))
            return min(shutil.disk_usage(place).free for place in places if place.exists())

    def sweep(self, older_than_s: float) -> int:
        """See ObjectStore."""
        before = time.time() - older_than_s
        with self._there("objects"):
            unfinished = (path for path in _files(self._root) if path.suffix == PART)
            return sum(_remove_stale(path, before) for path in unfinished)

    def _made(self, folder: Path) -> Path:
        """The folder, whose name holds no link, is there durably.

        Also where another thread or process has just made it: that one may not have synced its
        parent yet, so each process does once, and whenever it has made it anew.
        """
        inner = [path for path in (folder, *folder.parents) if path.is_relative_to(self._root)]
        for path in reversed(inner[:-1]):  # the last is the root
            is_new, itself = _is_made(path), path.resolve()
            if is_new or itself not in self._durable:
                _sync_folder(path.parent)
                self._durable.add(itself)
        return folder.resolve()

    @contextmanager
    def _there(self, what: str) -> Iterator[None]:
        """The block looks into the folder of this mark: what is missing from it is missing."""
        self._demand_root()
        try:
            with translated(what):
                yield
        except ObjectMissingError:
            self._demand_root()
            raise

    def _demand_root(self) -> None:
        """Return if the folder is the one of this mark, with all that is linked into it.

        Raises:
            ObjectsUnavailableError: it is gone, or another has its name.
        """
        if self.found() != self.mark:
            self._durable.clear()  # it may come back as another device
            raise lost(f"objects in {self._root}", self.mark)
        for name in FOLDERS:
            _demand_led(self._root / name)


def _mark_of(root: Path) -> str:
    """What the folder's mark says; empty where there is none, or no folder."""
    try:
        return (root / MARK).read_text(encoding="utf-8", errors="replace").strip()
    except OSError as fault:
        if fault.errno in _MACHINES:
            raise
        return ""


def _demand_led(path: Path) -> None:
    """Return if it is no link, or one to what is there.

    Raises:
        ObjectsUnavailableError: the volume that it leads to is away.
    """
    if path.is_symlink() and not path.exists():
        raise ObjectsUnavailableError(f"objects in {path}: a link to what is away")


def _is_made(folder: Path) -> bool:
    """The folder is there; whether by our hand."""
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():
            return False
        raise
    return True


def _make_folder(folder: Path) -> None:
    """The folder and its parents exist, durably: each new one is in its synced parent."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        _demand_led(path)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _write_once(path: Path, data: bytes) -> None:
    """The file is there, durably, with these bytes or those of whoever was first."""
    if path.exists():
        return
    scratch = path.with_name(f".{uuid.uuid4().hex}{PART}")
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


def _write_over(path: Path, data: bytes) -> None:
    """The file has these bytes, durably, in place of others."""
    scratch = path.with_name(f".{uuid.uuid4().hex}{PART}")
    try:
        _write(scratch, data)
        scratch.replace(path)
        _sync_folder(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Nobody else is in such a block, where the file system has locks of folders."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, data: Data) -> tuple[str, int]:
    """The file is on the disk, not only in its cache; SHA-256 and size."""
    hasher, size_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in pieces(data):
            hasher.update(piece)
            size_bytes += file.write(piece)
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


def _files(folder: Path) -> Iterator[Path]:
    """Whatever is no folder, here and below; what goes meanwhile may be left out.

    No link is entered but those to the folders of films and results, which lead to our own.
    """
    linked = (folder / name for name in FOLDERS if (folder / name).is_symlink())
    for top in (folder, *linked):
        for parent, _, names in os.walk(top, onerror=_pass_over_gone):
            yield from (Path(parent, name) for name in names)


def _pass_over_gone(fault: OSError) -> None:
    if not isinstance(fault, FileNotFoundError):
        raise fault


def _is_stale(path: Path, before: float) -> bool:
    """Whether it is a file, of that age; one that has gone, or cannot be looked at, is none."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_mtime < before


def _remove_stale(path: Path, before: float) -> bool:
    """Whether the file was that old and is gone by our hand."""
    if not _is_stale(path, before):
        return False
    try:
        path.unlink()
    except FileNotFoundError:  # its writer finished meanwhile
        return False
    return True
