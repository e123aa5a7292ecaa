"""Part 10 files, kept whole or not at all."""

from pathlib import Path

from storage.objects.local import LocalObjectStore
from storage.objects.memory import MemoryObjectStore
from storage.objects.port import ObjectStore, is_whole
from storage.objects.remote import FsspecObjectStore

__all__ = [
    "FsspecObjectStore",
    "LocalObjectStore",
    "MemoryObjectStore",
    "ObjectStore",
    "is_whole",
    "open_store",
]


def open_store(root: str, mark: str = "") -> ObjectStore:
    """The store at `root`: a folder of this machine, or any URL that fsspec knows (s3://…).

    The folder must be the one of that `mark`, where one is given.
    """
    if "://" in root and not root.startswith("file://"):
        return FsspecObjectStore(root)
    return LocalObjectStore(Path(root.removeprefix("file://")), mark)
