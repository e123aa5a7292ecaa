"""A worker whose model takes for ever to load: the main of a child process."""

import sys
import threading
from pathlib import Path
from types import ModuleType

from dicom_node import node
from dicom_node.config import NodeConfig
from dicom_node.work.loading import Loads


def work(settings: NodeConfig, loads: Loads, told: str) -> None:
    """As the node's own; a file is there from when the load has begun."""

    class LocalEngine:
        def __init__(self, *_: object) -> None:
            Path(told).touch()
            threading.Event().wait()

    stand_in = ModuleType("pipeline.engine.local")
    vars(stand_in)["LocalEngine"] = LocalEngine
    sys.modules[stand_in.__name__] = stand_in
    node.work(settings, loads)
