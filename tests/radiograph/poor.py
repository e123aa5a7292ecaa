"""What a decoder's child can be told to call on a machine that gives it no memory any more."""

import errno
import mmap
import os
import resource
from multiprocessing.connection import Connection
from pathlib import Path

from dicom_node import radiograph
from dicom_node.errors import CodecError, InputError
from dicom_node.radiograph import Film


class Starving:
    """Where it is unpickled, in the child, nobody gets memory by mmap."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _starved, ()

    def __call__(self, path: Path) -> Film:
        """As a codec without memory, which knows no word for that."""
        raise CodecError(f"{path.name} cannot be decoded.")


def _starved() -> Starving:
    mmap.mmap = _refuse  # type: ignore[assignment, misc]
    return Starving()


class Limited:
    """Where it is unpickled, in the child, no more memory than so many MiB may be had."""

    def __init__(self, spare_mib: int) -> None:
        self._spare_mib = spare_mib

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return _limited, (self._spare_mib,)

    def __call__(self, path: Path) -> Film:
        return radiograph.read(path)


def _limited(spare_mib: int) -> Limited:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + (spare_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return Limited(spare_mib)


class Timed:
    """Where it is unpickled, in the child, there is so much processor time at most."""

    def __init__(self, most_s: int) -> None:
        self._most_s = most_s

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return _timed, (self._most_s,)

    def __call__(self, _: Path) -> Film:
        """Says what there is while a film is read."""
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        raise InputError(f"{soft} {hard}")


def _timed(most_s: int) -> Timed:
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
    return Timed(most_s)


def _refuse(*_: object) -> mmap.mmap:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def unsaid(_: Path) -> Film:
    """Hereafter the pipe to the parent has no room, not even for a short answer."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    Connection.send = full  # type: ignore[method-assign, assignment]
    raise InputError("no film")
