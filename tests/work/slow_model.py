"""A worker whose model takes for ever to load: the main of a child process."""

import os
import sys
import threading
from pathlib import Path
from types import ModuleType

from dicom_node import node
from dicom_node.config import NodeConfig
from dicom_node.work.loading import Loads


def work(settings: NodeConfig, loads: Loads, told: str) -> None:
    """As the node's own; a file says its process id from when the load has begun."""

    class LocalEngine:
        def __init__(self, *_: object) -> None:
            part = Path(f"{told}.{os.getpid()}")
            part.write_text(str(os.getpid()))
            part.replace(told)
            threading.Event().wait()

    stand_in = ModuleType("pipeline.engine.local")
    vars(stand_in)["LocalEngine"] = LocalEngine
    sys.modules[stand_in.__name__] = stand_in
    node.work(settings, loads)
