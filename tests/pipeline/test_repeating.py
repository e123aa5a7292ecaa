"""What is measured of an answer's dependence on the seed, where that is known."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.evaluation.repeating import Repeating
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.validity import Pair
from pipeline.training.dataset import FilmRow
from pipeline.types import Image, Status
from tests.pipeline import chests


def seen(label: str, level: float) -> Seen:
    film = chests.flat() * 0 + level
    pair = Pair(film=film, counterfactual=film, places=film, lungs=chests.lungs())
    row = FilmRow(
        file="f", tar="", split="test", label=label, source="s", view="", flags=frozenset()
    )
    return Seen(row=row, pair=pair, status=Status.VALID)


def measured(films: list[Seen], explain: Callable[[Image, int], Any]) -> Any:
    return Repeating(explain, lambda these, _: these).everything(films)


def answer(score: float, *, marked: bool, doubted: bool = False) -> Any:
    status = Status.LOW_CONFIDENCE if doubted else Status.VALID
    regions = (object(),) if marked else ()
    return SimpleNamespace(score=score, uncertainty=0.25, regions=regions, status=status)


def test_each_class_says_what_the_seed_changes() -> None:
    def explain(film: Image, seed: int) -> Any:
        if film.max() > 0.5:  # the sick one: always the same
            return answer(0.75, marked=True)
        # Scores 0, .1, .2, .3, .4: their SD is sqrt(.1 / 4); a region with one seed of five.
        return answer(seed / 10, marked=seed == 4, doubted=seed == 0)

    found = measured([seen("Normal", 0.25), seen("Lung_Opacity", 0.75)], explain)
    normal, sick = found["normal films"], found["sick films"]
    assert found["seeds"] == 5
    assert normal["score_sd"]["mean"] == pytest.approx(0.025**0.5)
    assert normal["uncertainty_said"]["mean"] == 0.25
    assert normal["a_region_with_some_seeds_only"]["mean"] == 1
    assert normal["another_status_with_some_seeds"]["mean"] == 1
    assert sick["score_sd"]["mean"] == 0
    assert sick["a_region_with_some_seeds_only"]["mean"] == 0
    assert sick["another_status_with_some_seeds"]["mean"] == 0


@pytest.mark.parametrize(
    ("films", "taken"),
    [(60, [*range(0, 60, 3)]), (20, [*range(20)]), (3, [0, 1, 2]), (30, [0, 1, 3, 4, 6, 7])],
)
def test_at_most_twenty_films_of_a_class_are_taken_from_all_of_it(
    films: int, taken: list[int]
) -> None:
    asked: list[int] = []

    def explain(film: Image, seed: int) -> Any:
        asked.append(round(float(film.max()) * 64))
        return answer(0.5, marked=False)

    found = measured([seen("Normal", level / 64) for level in range(films)], explain)
    assert asked[::5][: len(taken)] == taken
    assert found["normal films"]["a_region_with_some_seeds_only"]["films"] == min(20, films)
    assert "sick films" not in found
