"""Objects of a service, and copies of them on this machine."""

import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from storage.errors import ObjectMissingError, StoreMismatchError
from storage.jobs import ObjectRef
from storage.objects.whole import PART, Data, checked, joined, plain, ref_of, translated

_COPIES = 64  # of remote objects that nobody is known to read any more
_COPY_AGE_S = 3600.0  # a batch is sent, and a film decoded, long before that


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
        whole, path = joined(data), self._path(name)
        with translated(f"object {name}"):
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._files.pipe_file(path, whole)
        return ref_of(name, whole)

    def read(self, ref: ObjectRef) -> bytes:
        """See ObjectStore."""
        with translated(f"object {ref.name}"):
            return checked(ref, self._files.cat_file(self._path(ref.name)))

    def demand(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with translated(f"object {ref.name}"):
            self._files.info(self._path(ref.name))

    def local_path(self, ref: ObjectRef) -> Path:
        """A checked copy in a folder that only this process's user may read."""
        return self._copies.of(ref, self.read(ref))

    def remove(self, ref: ObjectRef) -> None:
        """See ObjectStore."""
        with suppress(ObjectMissingError), translated(f"object {ref.name}"):
            self._files.rm_file(self._path(ref.name))

    def stale(self, older_than_s: float) -> Iterator[str]:
        """See ObjectStore."""
        with translated("objects"):
            for path in self._files.find(self._root):
                name = path.removeprefix(self._root).lstrip("/")
                if self._age_s(name) >= older_than_s:
                    yield name

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        """See ObjectStore."""
        with suppress(ObjectMissingError), translated(f"object {name}"):
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
        return f"{self._root}/{plain(name)}"


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
        with self._lock, translated(f"copy of object {ref.name}"):
            scratch = path.with_suffix(PART)
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
