"""How far and how fast it goes with what is made once and kept."""

import time
from collections.abc import Callable
from datetime import timedelta

from pipeline.training.session import Progress


class Pace:
    """Tells how many of `total` there are by now, and how many a second are made."""

    def __init__(
        self,
        what: str,
        total: int,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._progress = what, max(total, 1), progress
        self._clock, self._began_s = clock, clock()
        self._there = self._found = 0

    def found(self, more: int) -> None:
        """So many more were there: they say nothing of the pace."""
        self._there, self._found = self._there + more, self._found + more

    def __call__(self, there: int) -> None:
        """Tell of so many."""
        self._there = there
        # Never all: what is told as done is the end of the command.
        self._progress(min(there / self._total, 0.99), self._said())

    def after(self, before: int) -> Callable[[int], None]:
        """Tells of so many more than there were before."""
        return lambda more: self(before + more)

    def __str__(self) -> str:
        """What was told last, with the time that the others will take."""
        if not (rate := self._rate()):
            return self._said()
        left = timedelta(seconds=round((self._total - self._there) / rate))
        return f"{self._said()}, {left} left"

    def _said(self) -> str:
        said, rate = f"{self._there} of {self._total} {self._what}", self._rate()
        if not rate:
            return said
        return f"{said}, {rate:.1f} a second" if rate >= 1 else f"{said}, {1 / rate:.1f} s each"

    def _rate(self) -> float:
        return (self._there - self._found) / max(self._clock() - self._began_s, 1e-3)
