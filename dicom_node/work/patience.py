"""What a worker asks of a database that is away."""

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from dicom_node.work.limit import Limit
from storage.errors import StoreUnavailableError

_log = structlog.get_logger()

_T = TypeVar("_T")


class Patience:
    """Asks again every `again_s`, until it is told to stop; the time of it is not the film's."""

    def __init__(self, again_s: float, limit: Limit) -> None:
        self._again_s, self._limit = again_s, limit
        self.stop = threading.Event()

    def ask(self, ask: Callable[[], _T]) -> _T:
        """What the store answers, however long its database is away.

        Neither what was made nor the attempt is lost for that: heartbeats go on beside it.

        Raises:
            LeaseLostError: the job is another worker's now.
            StoreUnavailableError: the database is away, and the worker was told to stop.
        """
        with self._limit.paused():
            while True:
                try:
                    return ask()
                except StoreUnavailableError as fault:
                    _log.warning("job store unavailable", error=str(fault))
                    if self.stop.wait(self._again_s):
                        raise
