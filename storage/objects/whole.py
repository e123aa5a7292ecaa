"""What keeps an object whole: its name, its bytes, and whose fault it is where they are not."""

import errno
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    OutOfSpaceError,
    StorageError,
)
from storage.jobs import ObjectRef

PART = ".part"
"""How the names of unfinished files end."""
MARK = ".vald-objects"
"""The name of the file that says whose store it is."""
FOLDERS = ("received", "results")
"""Where films and results are; what else is in that place is not ours."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: the process's limit, setrlimit(2)

Piece = bytes | bytearray | memoryview
Data = Piece | Iterable[Piece]


def plain(name: str) -> str:
    """The name, if it is a plain relative path that no unfinished file has.

    Raises:
        ValueError: it is none.
    """
    path = PurePosixPath(name)
    is_plain = str(path) == name and name != "." and not path.is_absolute()
    if not is_plain or ".." in path.parts or "\0" in name or name.endswith(PART):
        raise ValueError(f"object name {name!r} is not a plain relative path")
    return name


def pieces(data: Data) -> Iterable[Piece]:
    """The data piece by piece."""
    return (data,) if isinstance(data, Piece) else data


def joined(data: Data) -> bytes:
    """The data in one piece."""
    return b"".join(pieces(data))


def ref_of(name: str, data: bytes) -> ObjectRef:
    """What these bytes are known by, kept under that name."""
    return ObjectRef(name=name, digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def checked(ref: ObjectRef, data: bytes) -> bytes:
    """The data, if it is what was kept.

    Raises:
        ObjectMissingError: it is not.
    """
    if ref_of(ref.name, data) != ref:
        raise ObjectMissingError(f"object {ref.name} is damaged: not the bytes that were kept")
    return data


def lost(place: str, mark: str) -> ObjectsUnavailableError:
    """To be raised where a store is not the one of its mark."""
    return ObjectsUnavailableError(
        f"{place}: the folder or its volume is gone, or is another: its {MARK} should say {mark}. "
        "If this is to be a new place, write that into it"
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
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
