"""How far and how fast it goes with what is made once, before a run's own clock begins."""

import time
from collections.abc import Callable, Iterator
from dataclasses import astuple

from pipeline.training.pairs import FRAMED, Counts, Material, PairMaker, Sample
from pipeline.training.session import Progress


class Pace:
    """Tells how many of `total` there are by now, and how many a second."""

    def __init__(
        self,
        what: str,
        total: int,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._progress = what, max(total, 1), progress
        self._clock, self._began_s = clock, clock()

    def __call__(self, made: int) -> None:
        """Tell of so many."""
        rate = made / max(self._clock() - self._began_s, 1e-3)
        said = f"{made} of {self._total} {self._what}, {rate:.1f} a second"
        # Never all: what is told as done is the end of the command.
        self._progress(min(made / self._total, 0.99), said)


class PacedMaker(PairMaker):
    """Tells of the samples that it makes, and has made a `share` of those that it was asked for."""

    def __init__(
        self, material: Material, seed: int, progress: Progress, framed: float = FRAMED
    ) -> None:
        super().__init__(material, seed, framed)
        self._progress, self.share = progress, 0.0

    def samples(self, counts: Counts) -> Iterator[Sample]:
        """As its parent makes them."""
        total = sum(astuple(counts))
        pace = Pace("pairs", total, self._progress)
        for index, sample in enumerate(super().samples(counts)):
            self.share = index / total
            pace(index)
            yield sample
