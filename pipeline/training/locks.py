"""One run at a time writes to a folder: two of them would undo each other's work, unseen.

The lock is the operating system's (flock), on a file beside the folder that says who holds it: it
is free as soon as its process is gone, however that ended. A file that a kill left says nothing,
and goes as the next holder ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.training import ranks

_UNKNOWN = -1.0


class InUseError(PipelineError):
    """The moment's fault: another process writes there."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Until the end nobody else holds `folder`, which need not be there; its parent must be.

    Where it is a link, what that leads to is held, if a file may be made beside it: others may lead
    there too. Of the processes that train together the first alone asks; what it is told is true
    for all.

    Raises:
        InUseError: another process holds it, the message says which; or another user has run there.
    """
    path = _beside(folder)
    file, holder = _asked(path) if ranks.is_first() else (None, 0.0)
    try:
        other = ranks.of_the_first(holder)
        if other:
            raise InUseError(_refusal(folder, other))
        yield
    finally:
        if file is not None:
            if not holder:
                path.unlink(missing_ok=True)
            os.close(file)  # and with it the lock


def _beside(folder: Path) -> Path:
    """Where the lock's file lies: the folder above a disk of one's own is often not one's own."""
    there = folder.resolve()
    place = there if os.access(there.parent, os.W_OK | os.X_OK) else folder
    return place.with_name(f".{place.name}.lock")


def _asked(path: Path) -> tuple[int, float]:
    """The lock's file, open, and its holder."""
    while True:
        file = _opened(path)
        holder = _holder(file)
        if holder or _lies_at(path, file):
            return file, holder
        os.close(file)  # its holder took it away meanwhile: another may lie there


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError as fault:
        raise InUseError(
            f"{path}: may not be opened, as another user has run there; give another folder, or "
            "take that file away once nobody is at work there"
        ) from fault


def _lies_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _holder(file: int) -> float:
    """The number of the process that holds the file's lock, 0 now that it is ours."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(file, 20, 0).decode("ascii", errors="replace").strip()
        return float(said) if said.isdecimal() else _UNKNOWN
    except OSError:  # a file system that knows no locks, as some of clusters: each must take care
        return 0.0
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode("ascii"), 0)
    return 0.0


def _refusal(folder: Path, holder: float) -> str:
    who = "another process" if holder == _UNKNOWN else f"another process ({holder:.0f})"
    return (
        f"{folder}: {who} is at work there; wait for its end or end it, then run the command "
        "again, or give another folder"
    )
