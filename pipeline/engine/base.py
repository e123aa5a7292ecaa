"""What every engine does; who uses one need not know where the network runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.types import Attribution, Mode, Radiograph, Target, Unlike


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One film to be explained."""

    film: Radiograph
    mode: Mode
    seed: int
    target: Target | None = None
    unlike: Unlike = Unlike.REFUSE


class Engine(Protocol):
    """Explains films; blocks until done."""

    @property
    def model_digest(self) -> str:
        """The digest of the model in use."""
        ...

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        """One attribution a request, in order.

        Raises:
            FilmError: a film's own fault (with one request only, so that it is clear whose).
            ShortageError: memory or the device was wanting; ask again later.
            ModelError: the model cannot do what was asked.
        """
        ...

    def close(self) -> None:
        """The model is let go."""
        ...
