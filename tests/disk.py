"""A disk that does not give one file, or takes none."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def trouble(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Whoever looks at the file is told EIO, as by a bad sector."""
    stat = os.stat

    def troubled(found: str, *args: int, **more: bool) -> os.stat_result:
        if str(found) == str(path):
            raise OSError(errno.EIO, "Input/output error")
        return stat(found, *args, **more)

    monkeypatch.setattr(os, "stat", troubled)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 9 bytes (RLIMIT_FSIZE): EFBIG, as ENOSPC of a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
