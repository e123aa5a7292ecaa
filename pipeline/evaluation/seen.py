"""Films of the manifest, seen: each with its row and what the edit made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import anatomy
from pipeline.evaluation.validity import Pair
from pipeline.training.dataset import FilmRow
from pipeline.types import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A film of the manifest with what the edit made of it, and how far that may be relied on.

    `doubts` are the names of the checks that doubt it (pipeline.checks.Findings).
    """

    row: FilmRow
    pair: Pair
    status: Status
    doubts: tuple[str, ...] = ()

    @property
    def normal(self) -> bool:
        """Whether its label says so."""
        return self.row.label == "Normal"

    @property
    def peak(self) -> float:
        """The score before any scale: the map's maximum."""
        return float(self.pair.places.max())

    @property
    def peak_in_lungs(self) -> float:
        """The maximum inside the lungs; of the whole film where none were found."""
        lungs = self.pair.lungs
        inside = self.pair.places[lungs] if lungs.any() else self.pair.places
        return float(inside.max())


def donors(films: Sequence[Seen]) -> list[Pair]:
    """Normal films whose lungs were found."""
    return [film.pair for film in films if film.normal and anatomy.usable(film.pair.lungs)]
