"""The minutes that a command is given, and what of them goes to what is made once and kept.

What is made in one call is taken from that call's minutes, and learning has what is left. Nothing
is begun once they are spent, and nothing is ended in the middle: so each call makes one part, or
one film's, at least, and enough calls make all.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError
from pipeline.training import ranks

_LEAST_TO_LEARN = 0.1  # of the minutes: a rate that rises and falls in less teaches little


class OutOfTimeError(PipelineError):
    """Nobody's fault: the minutes are spent, and the same command goes on from what is kept."""


class Budget:
    """So many minutes, for ever without; `made_s` of them went to making in this call."""

    def __init__(
        self, minutes: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.minutes, self._clock, self.made_s = minutes, clock, 0.0

    @property
    def is_spent(self) -> bool:
        """Whether nothing more is to be begun; never before something was made."""
        return self.made_s >= self.minutes * 60

    @contextmanager
    def making(self) -> Iterator[None]:
        """What is done within counts."""
        began_s = self._clock()
        try:
            yield
        finally:
            self.made_s += self._clock() - began_s

    def taken_from_learning_s(self) -> float:
        """What of the minutes is spent before learning begins, the same in all processes.

        Raises:
            OutOfTimeError: too little is left.
        """
        made_s = ranks.of_the_first(self.made_s)
        if made_s > (1 - _LEAST_TO_LEARN) * self.minutes * 60:
            raise OutOfTimeError(
                f"what is made once took {made_s / 60:.1f} of the {self.minutes:g} minutes, and is "
                "kept; too few are left to learn in: run the command again, and it learns"
            )
        return made_s
