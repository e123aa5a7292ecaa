"""What a decoder's child can be told to call on a machine that gives it no memory any more."""

import errno
import mmap
import os
from pathlib import Path

from dicom_node.errors import CodecError
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


def _refuse(*_: object) -> mmap.mmap:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
