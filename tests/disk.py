"""A disk that does not give one file."""

import errno
import os
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
