"""How long a worker may take over one film."""

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = 2
_AT_ONCE_S = 0.001


class Limit:
    """Ends this process where it takes longer, whatever it hangs in; its leases are then free.

    By faulthandler's watchdog, of which a process has one and which needs no interpreter lock; what
    it writes to standard error are the names of functions, no values.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._until_s: float | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The block does not take longer."""
        self._watch(self._limit_s)
        try:
            yield
        finally:
            self._rest()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What the block takes does not count: it waits for others, and ends by itself."""
        left_s = self._rest()
        try:
            yield
        finally:
            if left_s is not None:
                self._watch(left_s)

    def _watch(self, left_s: float) -> None:
        self._until_s = time.monotonic() + left_s
        faulthandler.dump_traceback_later(max(left_s, _AT_ONCE_S), exit=True, file=_STANDARD_ERROR)

    def _rest(self) -> float | None:
        """Nothing is watched; how much was left, None where nothing was."""
        faulthandler.cancel_dump_traceback_later()
        until_s, self._until_s = self._until_s, None
        return None if until_s is None else until_s - time.monotonic()
