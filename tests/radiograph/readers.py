"""What a decoder's child can be told to call in place of `radiograph.read`."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from dicom_node import radiograph
from dicom_node.errors import InputError
from dicom_node.radiograph import Film


def misbehave(path: Path) -> Film:
    """Does what the file's name says, and reads it where that is nothing of the kind."""
    match path.name:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        case "hangs":
            time.sleep(60)
        case "greedy":
            np.ones(1 << 40, np.uint8)
        case "bug":
            raise LookupError("a fault of ours")
        case "who":
            raise InputError(str(os.getpid()))
        case "imports":
            raise InputError(" ".join(sys.modules))
    return radiograph.read(path)
