"""Part 10 files, kept whole or not at all."""

from pathlib import Path

from storage.objects.local import LocalObjectStore
from storage.objects.memory import MemoryObjectStore
from storage.objects.ownership import demand_free, demand_ours, take, take_over
from storage.objects.port import ObjectStore, is_whole
from storage.objects.remote import FsspecObjectStore
from storage.objects.whole import FOLDERS

__all__ = [
    "FOLDERS",
    "FsspecObjectStore",
    "LocalObjectStore",
    "MemoryObjectStore",
    "ObjectStore",
    "demand_free",
    "demand_ours",
    "is_whole",
    "open_store",
    "take",
    "take_over",
]


def open_store(root: str, mark: str = "") -> ObjectStore:
    """The store at `root`: a folder of this machine, or any URL that fsspec knows (s3://…).

    It must be the one of that `mark`, where one is given.
    """
    if "://" in root and not root.startswith("file://"):
        return FsspecObjectStore(root, mark)
    return LocalObjectStore(Path(root.removeprefix("file://")), mark)
