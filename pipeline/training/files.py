"""Files that are there whole or not at all, so that a killed run can go on from what it finds.

What is being written has a name of the process's own: others may write the same file, and whoever
ends last has written it. What a killed process left so is taken away by the next that writes there.
"""

import contextlib
import errno
import glob
import io
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from pipeline.errors import ShortageError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TOLD_IN_WORDS = re.compile(r"(?:os error |Errno )(\d+)")  # by Rust, and by shutil of many files
_WRITER = re.compile(r"\.(?P<host>[^.]*)-(?P<process>\d+)\.part$")
_LEFT_FOR_S = 86_400.0  # another machine's scratch that nobody has written to for a day


class FullDiskError(ShortageError):
    """The moment's fault: there is no space, or no more is allowed, for a file."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is done within writes `path`.

    Raises:
        FullDiskError: there is no space for it.
    """
    try:
        yield
    except (OSError, SafetensorError) as fault:
        number = _number_of(fault)
        if number not in _NO_SPACE:
            raise
        raise FullDiskError(
            f"{path}: cannot be written: {os.strerror(number)}; make room there, then run the "
            "command again: what was kept before is whole"
        ) from fault


def save_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """`path` is the array as .npy.

    Raises:
        FullDiskError: there is no space for it.
    """
    content = io.BytesIO()
    np.save(content, array)  # to a file it would say of a full disk that less was written, no more
    with writing(path):
        path.write_bytes(content.getvalue())


def _number_of(fault: Exception) -> int:
    """The operating system's number of a fault, 0 where it has none."""
    if isinstance(fault, OSError) and fault.errno is not None:
        return fault.errno
    said = _TOLD_IN_WORDS.search(str(fault))
    return int(said[1]) if said else 0


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """What is written to the path given becomes `path` at the end, unless there was a fault.

    Raises:
        FullDiskError: there is no space for it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(path)
        try:
            yield scratch
            with scratch.open("rb+") as file:  # a name must not reach the disk before its content
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """What is written to the empty folder given takes the place of `path`, unless of a fault.

    Raises:
        FullDiskError: there is no space for it.
    """
    put_back(path)
    with writing(path):
        scratch = _scratch(path)
        scratch.mkdir(parents=True)
        try:
            yield scratch
            if path.exists():
                path.rename(_aside(path))
            scratch.rename(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            put_back(path)


def put_back(path: Path) -> None:
    """A folder that a kill left set aside, just as another took its place, is `path` again."""
    before = _aside(path)
    if before.exists() and not path.exists():
        before.rename(path)
    shutil.rmtree(before, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def _scratch(path: Path) -> Path:
    """A name beside `path` that this process alone writes to; what others left so is gone."""
    own = path.with_name(f"{path.name}.{_host()}-{os.getpid()}.part")
    name = glob.escape(path.name)
    of_before = path.parent.glob(f"{name}.part")  # by versions before all wrote to one name
    for left in (*of_before, *filter(_is_left, path.parent.glob(f"{name}.*-*.part")), own):
        _remove(left)
    return own


def _is_left(scratch: Path) -> bool:
    """Whether no process is writing it any more."""
    writer = _WRITER.search(scratch.name)
    if writer is None or writer["host"] != _host():  # nobody here can ask for its process
        with contextlib.suppress(FileNotFoundError):
            return time.time() - scratch.stat().st_mtime > _LEFT_FOR_S
        return False
    try:
        os.kill(int(writer["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _remove(scratch: Path) -> None:
    if scratch.is_dir():
        shutil.rmtree(scratch, ignore_errors=True)
    else:
        scratch.unlink(missing_ok=True)


def _host() -> str:
    return socket.gethostname().replace(".", "_")  # a name's parts are parted by dots
