"""A service that keeps objects, by fsspec: its calls end in time, and its faults are ours.

An object is there whole or not at all: it is put by one request, or in parts that the service
joins by a last one.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import fsspec

from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    StorageError,
    StoreMismatchError,
)

_LOOK_S = 10.0  # for a request without an object's bytes: rows may be locked meanwhile
_BYTES_S, _BYTES_PER_S = 30.0, 1 << 20  # for one with them, and what its link must do at least
_KEYS = re.compile(r"//[^/@\s]+@")
"""In an address that a fault quotes."""
_S3: Mapping[str, Any] = {
    "config_kwargs": {
        "connect_timeout": 4,
        "read_timeout": 14,  # of silence
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
    "max_concurrency": 1,  # an object comes by one request, not by a look and then more
}


class Service:
    """Whatever is said of an object, but that it is not there, is the moment's.

    Who is refused, cut off or told that the bucket is gone knows nothing of what it holds. So each
    call may raise ObjectsUnavailableError, and ObjectMissingError only where the bucket is there.
    """

    def __init__(self, url: str) -> None:
        """Name the place; it may be away.

        Raises:
            StoreMismatchError: it is no place that can be used here, or there is no such bucket.
        """
        self._files, self._root = _opened(url)
        self._faults: tuple[type[Exception], ...] = _s3_faults() if _is_s3(url) else (OSError,)
        with suppress(ObjectsUnavailableError):
            self.demand_bucket(StoreMismatchError)

    def demand_bucket(self, error: type[StorageError] = ObjectsUnavailableError) -> None:
        """Return if the bucket is there and lets us look; raises `error` where there is none."""
        bucket = self._root.split("/")[0]
        try:
            with self._answering("objects"):
                self._files.info(bucket, **self._within(_LOOK_S))
        except ObjectMissingError as fault:
            said = f"storage.objects: there is no bucket {bucket}: make it, or correct its name"
            raise error(said) from fault

    def put(self, name: str, data: bytes) -> None:
        """The object is there whole, and durable, in place of what had its name.

        No folder is made first: for that s3fs would make a bucket that is gone anew, empty.
        """
        with self._there(f"object {name}"):
            self._files.pipe_file(self._path(name), data, **self._within(_bytes_s(len(data))))

    def get(self, name: str, size_bytes: int) -> bytes:
        """The bytes that are there, which should be so many."""
        with self._there(f"object {name}"):
            found: bytes = self._files.cat_file(
                self._path(name), **self._within(_bytes_s(size_bytes))
            )
        return found

    def changed_s(self, name: str) -> float:
        """When the object was put, by the service's clock."""
        with self._there(f"object {name}"):
            return self._changed_s(self._files.info(self._path(name), **self._within(_LOOK_S)))

    def listed_bytes(self, name: str) -> int | None:
        """How long the object is by its folder's list; None where that does not have it.

        A page in place of it may pass for a list of nothing; and HEAD's length may be the page's.
        """
        path = self._path(name)
        entries: list[dict[str, Any]] = []
        with suppress(ObjectMissingError), self._answering(f"object {name}"):
            entries = self._files.ls(path, detail=True, **self._within(_BYTES_S))
        sizes = [int(e["size"]) for e in entries if e["name"].strip("/") == path.strip("/")]
        return sizes[0] if sizes else None

    def remove(self, name: str) -> None:
        """There is no such object; some services raise ObjectMissingError where there was none."""
        with self._there(f"object {name}"):
            self._files.rm_file(self._path(name), **self._within(_LOOK_S))

    def listed(self, folder: str = "") -> Iterator[tuple[str, float]]:
        """The name of each object and when it was put; a folder's at a time, however many."""
        path = f"{self._root}/{folder}".rstrip("/")
        entries: list[dict[str, Any]] = []
        with suppress(ObjectMissingError), self._there("objects"):
            entries = self._files.ls(path, detail=True, **self._within(_BYTES_S))
        for entry in entries:
            name = entry["name"].removeprefix(self._root).strip("/")
            if entry["type"] == "directory":
                yield from self.listed(name)
            else:
                with self._answering(f"object {name}"):
                    changed_s = self._changed_s(entry)
                yield name, changed_s

    def _changed_s(self, entry: Mapping[str, Any]) -> float:
        at = entry.get("LastModified") or self._files.modified(entry["name"])
        return float(at.timestamp())

    @contextmanager
    def _there(self, what: str) -> Iterator[None]:
        """What is missing is missing from a bucket that is there."""
        try:
            with self._answering(what):
                yield
        except ObjectMissingError:
            self.demand_bucket()
            raise

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        """What the service or its client says, as an error that says whose fault it is."""
        try:
            yield
        except FileNotFoundError as fault:
            raise ObjectMissingError(f"{what} is gone") from fault
        except self._faults as fault:
            said = _KEYS.sub("//", str(fault)) or "no answer in time"
            kind = type(fault).__name__
            raise ObjectsUnavailableError(f"{what}: the service: {kind}: {said}") from fault

    def _within(self, limit_s: float) -> dict[str, float]:
        """The call ends by then: silence is bounded by its client, a link that crawls by nobody."""
        return {"timeout": limit_s} if self._files.async_impl else {}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _bytes_s(size_bytes: int) -> float:
    return _BYTES_S + size_bytes / _BYTES_PER_S


def _is_s3(url: str) -> bool:
    return url.startswith("s3:")


def _opened(url: str) -> tuple[Any, str]:
    """The file system of fsspec and the path in it."""
    if _is_s3(url) and ("@" in url or not url.removeprefix("s3://").strip("/")):
        raise StoreMismatchError(
            "storage.objects: write s3://bucket/prefix, and no keys into it: they belong into "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    # Each process would see its own listings only, and those as they once were.
    options = {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        files, root = fsspec.core.url_to_fs(url, **options, **(_S3 if _is_s3(url) else {}))
    except (ImportError, ValueError) as fault:
        extra = "; pip install 'vald-node[s3]'" if _is_s3(url) else ""
        raise StoreMismatchError(f"storage.objects: {fault}{extra}") from fault
    files.retries = 1  # of s3fs, around those of its client
    return files, root


def _s3_faults() -> tuple[type[Exception], ...]:
    """What s3fs raises: OSErrors, and what it lets through of its clients."""
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError

    return OSError, BotoCoreError, ClientError, HttpError
