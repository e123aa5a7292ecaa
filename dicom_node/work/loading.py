"""How loading the model went: told by workers to their parent, and to who looks at the node.

Most faults of a model folder are told before the node listens. A worker finds the rest, which only
built networks show, and whatever became of the folder later.
"""

import multiprocessing
from datetime import datetime

from dicom_node import processes
from pipeline.errors import ModelError
from storage.store import JobStore

_LONGEST_NAME = 64


class Loads:
    """Shared by a node's processes: whether a worker has loaded the model since the node started.

    Made by the parent; a child has it as an argument of its main.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        # No lock: a worker that is killed while it holds one would leave its parent waiting.
        self._loaded, self._refusals = context.RawValue("b", 0), context.SimpleQueue()

    def loaded(self) -> None:
        """A worker has loaded the model."""
        self._loaded.value = 1

    def refuse(self, reason: str) -> None:
        """A worker could not; said of a model that none has loaded yet, it ends the node."""
        if not self._loaded.value:
            self._refusals.put(reason)

    def demand_none_refused(self) -> None:
        """No worker has refused the model that the node was started with.

        Raises:
            ModelError: one has, and none had loaded it.
        """
        if not self._loaded.value and not self._refusals.empty():
            raise ModelError(self._refusals.get())


def note(store: JobStore, port: int, reason: str, now: datetime) -> None:
    """The last load of the model by the node at this port failed for this; "" where it did not."""
    name = _name(port)
    known = store.notice(name)
    if reason != ("" if known is None else known.text):
        store.post(name, reason, now)


def trouble(store: JobStore, port: int) -> str:
    """Why the node at this port could not load the model when it last tried; "" where it could."""
    known = store.notice(_name(port))
    return "" if known is None else known.text


def _name(port: int) -> str:
    return f"load {processes.owners(port)}"[-_LONGEST_NAME:]
