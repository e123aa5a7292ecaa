"""What shares of films are counted, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline import checks
from pipeline.checks import Findings
from pipeline.evaluation import shares
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.validity import Pair
from pipeline.limits import Limits
from pipeline.training.dataset import FilmRow
from pipeline.types import Status

FILM = np.zeros((4, 4), np.float32)
DOUBTED = ("stability", "off_target")


def seen(label: str, status: Status, doubts: tuple[str, ...] = ()) -> Seen:
    row = FilmRow(
        file="m", tar="", split="test", label=label, source="s", view="", flags=frozenset()
    )
    pair = Pair(film=FILM, counterfactual=FILM, attribution_map=FILM, lungs=FILM > 0)
    return Seen(row=row, pair=pair, status=status, doubts=doubts)


FILMS = [
    seen("Normal", Status.VALID),
    seen("COVID", Status.LOW_CONFIDENCE, DOUBTED),
    seen("COVID", Status.LOW_CONFIDENCE, DOUBTED[:1]),
    seen("COVID", Status.VALID),
    seen("COVID", Status.WITHHELD, DOUBTED[1:]),
]


def test_statuses_are_counted_of_normal_and_sick_films_apart() -> None:
    found = shares.statuses(FILMS)
    assert {name: share["mean"] for name, share in found["normal"].items()} == {
        "VALID": 1, "LOW_CONFIDENCE": 0, "WITHHELD": 0,
    }  # fmt: skip
    assert {name: share["mean"] for name, share in found["abnormal"].items()} == {
        "VALID": 0.25, "LOW_CONFIDENCE": 0.5, "WITHHELD": 0.25,
    }  # fmt: skip
    assert shares.statuses(FILMS[:1]).keys() == {"normal"}


def test_each_check_is_counted_that_doubts_a_film() -> None:
    found = shares.doubted(FILMS)
    assert {name: share["mean"] for name, share in found["abnormal"].items()} == {
        "lungs_found": 0, "stability": 0.5, "effect": 0, "off_target": 0.5, "unmarked": 0,
    }  # fmt: skip
    assert {share["mean"] for share in found["normal"].values()} == {0}


def test_a_check_that_doubts_is_told_by_the_name_of_what_it_looks_at() -> None:
    limits = Limits(stability=0.5, effect=0.5, off_target=0.5, unmarked=0.5)
    good = Findings(lungs_found=True, stability=0.6, effect=0.6, off_target=0.4, unmarked=0.4)
    assert checks.doubts(good, limits) == {}
    for name, bad in {
        "lungs_found": replace(good, lungs_found=False),
        "stability": replace(good, stability=0.4),
        "effect": replace(good, effect=0.4),
        "off_target": replace(good, off_target=0.6),
        "unmarked": replace(good, unmarked=0.6),
    }.items():
        assert list(checks.doubts(bad, limits)) == [name]


def test_maps_are_scored_by_status_where_ten_films_have_it() -> None:
    each = [Status.VALID] * 10 + [Status.LOW_CONFIDENCE] * 9 + [Status.VALID] * 2
    precisions = np.array([0.5] * 10 + [0.1] * 9 + [0.8] * 2)
    touched = [True] * 6 + [False] * 15
    found = shares.by_status(each, precisions, touched, [""] * 21)
    assert found.keys() == {"VALID"}
    assert found["VALID"]["films"] == 12
    assert found["VALID"]["auprc"]["mean"] == pytest.approx((10 * 0.5 + 2 * 0.8) / 12)
    assert found["VALID"]["region_touches_a_box"]["mean"] == 0.5
