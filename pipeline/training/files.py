"""Files that are there whole or not at all, so that a killed run can go on from what it finds."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """What is written to the path given becomes `path` at the end, unless there was a fault."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.part")
    try:
        yield scratch
        with scratch.open("rb+") as file:  # a name must not reach the disk before its content
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """What is written to the empty folder given takes the place of `path`, unless of a fault."""
    put_back(path)
    scratch = path.with_name(f"{path.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed here
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
