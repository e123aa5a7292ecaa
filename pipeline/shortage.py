"""What the machine lacks for the moment, told apart from what is wrong with a model or a film.

Libraries say it in words and classes of their own, and wrap one in another: diffusers makes "the
file is damaged" of a file that it could not open. So the whole chain of causes is asked.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ShortageError

_MEMORY = "too little memory was free; free some, or give it more"
_LACKS = {
    # EMFILE and ENFILE, as libc and Rust say them.
    "too many open files": "no file handle was free; raise the limit of open files (ulimit -n)",
    # ENOMEM; the allocators of torch (c10/core/impl/alloc_cpu.cpp, CUDA, MPS), cuBLAS and cuDNN;
    # oneDNN, whose every call says no more than this where it gets no memory.
    "cannot allocate memory|can't allocate memory|not enough memory|out of memory"
    "|status_alloc_failed|could not (create|execute) a primitive$": _MEMORY,
    "can't start new thread": "no thread was free; raise the limit of processes (ulimit -u)",
    # Whatever the driver says, cudaErrorDevicesUnavailable first: torch blames no file by it.
    "cuda error": "the device was busy, away or failing; see nvidia-smi",
}
_LONGEST_DETAIL = 200


@contextmanager
def told(failed: str) -> Iterator[None]:
    """What is raised for want of something of the machine's is raised as that.

    Raises:
        ShortageError: what failed, for want of what, and what to do.
    """
    try:
        yield
    except ShortageError:
        raise
    except Exception as fault:
        if what := lacking(fault):
            raise ShortageError(f"{failed}: {what}") from fault
        raise


def lacking(fault: BaseException) -> str:
    """What was wanting and what to do, with what the library says; empty where nothing was."""
    for cause in _chain(fault):
        said = " ".join(str(cause).split())
        for words, what in _LACKS.items():
            if re.search(words, said, re.IGNORECASE):
                return f"{what} ({said[:_LONGEST_DETAIL]})"
        if isinstance(cause, MemoryError):
            return _MEMORY
    return ""


def _chain(fault: BaseException | None) -> Iterator[BaseException]:
    """The fault, and whatever it was raised from or while handling."""
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__
