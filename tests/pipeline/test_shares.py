"""What shares of films are counted, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline import checks
from pipeline.checks import Findings
from pipeline.evaluation import shares
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.validity import Pair
from pipeline.gates import ImageGate
from pipeline.limits import Limits
from pipeline.training.dataset import FilmRow
from pipeline.types import Image, Status

FILM = np.zeros((4, 4), np.float32)
DOUBTED = ("stability", "off_target")


def seen(label: str, status: Status, doubts: tuple[str, ...] = ()) -> Seen:
    row = FilmRow(
        file="m", tar="", split="test", label=label, source="s", view="", flags=frozenset()
    )
    pair = Pair(film=FILM, counterfactual=FILM, places=FILM, lungs=FILM > 0)
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


def test_normal_films_are_counted_with_and_without_those_that_taught_the_segmenter() -> None:
    marked = {"jsrt": [(True, "")] * 2, "nih": [(False, "")] * 3 + [(True, "")], "tbx": []}
    found = shares.with_a_region(marked)
    assert (found["with_a_region"]["films"], found["with_a_region"]["mean"]) == (6, 0.5)
    assert (found["without_jsrt"]["films"], found["without_jsrt"]["mean"]) == (4, 0.25)
    assert found["sources"]["jsrt"]["mean"] == 1


class OfFirstPixel(ImageGate):
    """Refuses what is dark at the first pixel."""

    def refusal(self, plane: Image) -> str:
        return "dark" if plane[0, 0] < 0.5 else ""


def test_the_gate_is_asked_of_each_film_upright_turned_and_inverted() -> None:
    # The first pixel of a film turned by 180 degrees is the last, by 90 the last of the first row.
    anything: Any = None
    gate = OfFirstPixel(classifier=anything, gaussian=anything, least_logit=0, limit=0)
    corners = [np.zeros((2, 2), np.float32) for _ in range(4)]
    for film, bright in zip(corners, ([], [0], [0, 1], [0, 1, 3]), strict=True):
        film.ravel()[bright] = 1
    found = shares.gated(gate, [(film, "") for film in corners])
    assert {name: share["mean"] for name, share in found.items()} == {
        "let_pass": 0.75,
        "refused_turned_by_180": 0.75,
        "refused_turned_by_90": 0.5,
        "refused_inverted": 0.75,
    }
