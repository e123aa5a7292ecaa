"""What a decoder's child can be told to call in place of `radiograph.read`."""

import os
import re
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from dicom_node import radiograph
from dicom_node.errors import InputError
from dicom_node.radiograph import Film

_SIGNALS = {
    "segfault": signal.SIGSEGV,
    "killed": signal.SIGKILL,
    "out of time": signal.SIGXCPU,
    "stopped": signal.SIGTERM,
}


def misbehave(path: Path) -> Film:
    """Does what the file's name says, and reads it where that is nothing of the kind."""
    match path.name:
        case "segfault" | "killed" | "out of time" | "stopped" as how:
            os.kill(os.getpid(), _SIGNALS[how])
        case "hangs":
            time.sleep(60)
        case "spins":  # as a codec that lets no other thread run
            re.match(r"(a+)+b", "a" * 60)
        case "greedy":
            np.ones(1 << 40, np.uint8)
        case "starved" | "no thread" | "no handle" as wanting:
            _lack(wanting)
        case "bug":
            raise LookupError(f"a fault of ours, {path.name}^JANE")
        case "who":
            raise InputError(str(os.getpid()))
        case "imports":
            raise InputError(" ".join(sys.modules))
    return radiograph.read(path)


def starved_at_first(path: Path) -> Film:
    """Reads it; the first time of a path while the machine has so many MiB as its folder says.

    That it was so once is noted in a file beside it.
    """
    noted = path.with_suffix(".starved")
    if not noted.exists():
        noted.touch()
        _leave(int(path.parent.name) << 20)
    return radiograph.read(path)


def _leave(nr_bytes: int) -> None:
    """The machine has no more memory than that for this process."""
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit + nr_bytes, hard))


def _lack(wanting: str) -> None:
    match wanting:
        case "starved":
            _leave(0)
            np.ones(1 << 26, np.uint8)
        case "no thread":
            raise RuntimeError("can't start new thread")
        case "no handle":
            raise ImportError("codec.so: cannot open shared object file: Too many open files")
