"""The object store's contract: Part 10 files, kept whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from storage.errors import ObjectMissingError
from storage.jobs import ObjectRef
from storage.objects.whole import Data


class ObjectStore(Protocol):
    """Named, immutable bytes.

    All may raise `ObjectsUnavailableError`: the volume or service is away, and nothing is known of
    what it holds.
    """

    mark: str
    """What tells this store from another of the same address; empty where nothing has to."""

    def found(self) -> str:
        """What the mark there says now; empty where there is none, or no folder."""
        ...

    def is_used(self) -> bool:
        """Whether a film or a result is there, whosever it is."""
        ...

    def mark_as(self, own: str) -> None:
        """There is a mark, durably: this one, unless there was one; `mark` is what it says.

        Raises:
            StorageError: it cannot be made.
        """
        ...

    def mark_anew(self, own: str) -> None:
        """Where the mark there is `mark`, it is this one, durably; `mark` is what it says.

        Of several who do this at once one is the last, and whose it is.

        Raises:
            StorageError: it cannot be made.
        """
        ...

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
            ObjectUnreadableError: this object, and no other, cannot be told now.
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
            ObjectUnreadableError: as by `read`.
        """
        ...

    def whole_path(self, ref: ObjectRef) -> Path:
        """The same, its bytes checked; of a service they are fetched once.

        Raises:
            ObjectMissingError: they are gone, or are not what was kept.
            ObjectUnreadableError: as by `read`.
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
