"""A worker of a machine that has no file handle left: the main of a child process."""

import importlib
import os
import resource
from pathlib import Path

from dicom_node import node
from dicom_node.config import NodeConfig
from dicom_node.work.loading import Loads


def work(settings: NodeConfig, loads: Loads) -> None:
    """As the node's own, with every file handle taken once all is imported."""
    for name in ("dicom_node.decoder", "dicom_node.work.worker", "pipeline.engine.local"):
        importlib.import_module(name)
    known = len(list(Path("/proc/self/fd").iterdir()))
    taken = [os.dup(2) for _ in range(known)]  # those that were closed in between too
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, taken[-1] + 1))
    node.work(settings, loads)
