"""What is measured of edits: each film once, and a lesion inside and outside."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.classifier import FEATURES, Classifier
from pipeline.evaluation import sets, summary
from pipeline.evaluation.cases import Case, Judges, change_shown
from pipeline.evaluation.edits import Edits
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.validity import Pair
from pipeline.evidence import Evidence
from pipeline.training.dataset import FilmRow, LocalisedRow
from pipeline.types import Image, Mode, Status, Target

SIDE = 128
FILM: Image = np.random.default_rng(0).uniform(0.6, 1, (SIDE, SIDE)).astype(np.float32)
LUNGS = np.ones((SIDE, SIDE), bool)
LESION = np.zeros((SIDE, SIDE), bool)
LESION[40:80, 40:80] = True


class AllSick(Classifier):
    """Calls every film abnormal, of one source."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x))


class Bright(AllSick):
    """Scores a film by its mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))


class Lossless:
    """An autoencoder's round trip that changes nothing."""

    def reconstruction(self, film: Image) -> Image:
        return film

    def opening(self, film: Image, target: Target | None = None) -> float:
        """A gate that opens by half of a film towards normal, and by a tenth of that else."""
        return float(film.mean()) * (0.5 if target is None else 0.05)


def edits(judge: Classifier | None = None) -> Edits:
    maker: Any = Lossless()
    encoder = sets.Encoder("nothing", AllSick(), FEATURES)
    judges = Judges(classifier=judge or AllSick(), segmenter=None, encoder=encoder)
    return Edits(judges, maker, lambda films, _: films)


def case(original: str, change: Image) -> Case:
    """A localised film whose counterpart is the film less `change`."""
    evidence = Evidence(
        plane=FILM, lungs=LUNGS, changes=change[None], local=change[None],
        maps=np.abs(change)[None], gate=np.ones_like(change)[None], second=None, free=None,
        first=None, still=None, traits=None,
    )  # fmt: skip
    row = LocalisedRow(file="l", source="s", part="test", boxes=(), original=original)
    return Case(
        row=row,
        mode=Mode.CALIBRATED,
        truth=LESION,
        marked=LESION,
        lungs=LUNGS,
        maps={},
        evidence=evidence,
    )


def test_the_change_shown_is_that_of_the_counterpart_beside_the_film() -> None:
    # Draws whose mean is 0.2 on the left; on the right more is taken than there is to be black; and
    # what covers whole lungs is in it, though the map's own edit, the local one, has none.
    plane, changes = np.full((64, 64), 0.6, np.float32), np.zeros((2, 64, 64), np.float32)
    changes[0, :, :32], changes[1, :, :32], changes[:, :, 32:] = 0.5, -0.1, 0.9
    made = replace(case("", 0 * changes[0]).evidence, plane=plane, changes=changes)
    shown = change_shown(made, blur_px=1)
    assert shown[32, [10, 54]] == pytest.approx([0.2, 0.6])
    assert shown[32, 31] + shown[32, 32] == pytest.approx(0.8)  # smooth where they meet
    assert 0.2 < shown[32, 31] < shown[32, 32] < 0.6


def seen(original: str, label: str = "COVID", source: str = "s", film: Image = FILM) -> Seen:
    """A film of the manifest, a sick one if nothing else is said."""
    row = FilmRow(
        file="m", tar="", split="test", label=label, source=source, view="", flags=frozenset(),
        original=original,
    )  # fmt: skip
    lungs = LUNGS & (label != "Normal")  # a normal one lends none
    pair = Pair(film=film, counterfactual=film, places=film, lungs=lungs)
    return Seen(row=row, pair=pair, status=Status.VALID)


def test_a_film_of_both_tables_is_counted_once_over_all() -> None:
    # The file d1 lies in both, d2 in the manifest alone; nobody knows which the other two are.
    cases = {"boxed": [case("d1", 0 * FILM), case("", 0 * FILM)]}
    found = edits().validity([seen("d1"), seen("d2"), seen("")], cases)["groups"]
    films = {name: group["films"] for name, group in found.items()}
    assert films == {"boxed": 2, "s": 3, "all": 4}


def test_a_change_of_the_lesion_alone_is_seen_inside_it_and_not_outside() -> None:
    # SSIM looks 5 pixels around: 18 x 18 of the lesion's 40 x 40 pixels see nothing but what has
    # become flat. Against a texture of variance 0.4^2 / 12 that is 0.03^2 / (0.4^2 / 12 + 0.03^2).
    inner = np.zeros((SIDE, SIDE), bool)
    inner[46:74, 46:74] = True
    change = np.where(inner, FILM - FILM[inner].mean(), 0).astype(np.float32)
    found = edits().validity([], {"boxed": [case("", change)] * 2})
    assert found["ssim_outside_lesion"]["mean"] == pytest.approx(1, abs=1e-6)
    alike = 0.03**2 / (0.4**2 / 12 + 0.03**2)
    assert found["ssim_inside_lesion"]["mean"] < 1 - (18 / 40) ** 2 * (1 - alike) + 0.01


def test_the_ceiling_of_likeness_is_named_for_what_it_is() -> None:
    films = [seen("", "Normal")] * 20 + [seen("")] * 10
    told = dict(summary.flat(edits().likeness(films)))
    assert "s: sick films against normal ones (ceiling): kid" in told
    assert not [name for name in told if "in the place of" in name]


def test_a_null_edit_stands_beside_the_edit() -> None:
    found = edits().validity([], {"boxed": [case("d1", 0 * FILM), case("d2", 0 * FILM)]})
    level = float(FILM.mean())
    assert found["gate_opened_towards_normal"]["mean"] == pytest.approx(0.5 * level)
    assert found["gate_opened_by_the_null_edit"]["mean"] == pytest.approx(0.05 * level)


def test_what_a_reader_sees_of_a_lesion_is_compared_on_every_marked_film() -> None:
    # Flat films, one of 0.6 beside 0.2 in the lesion alone, and one that is not changed: there SSIM
    # is (2 a b + C1) / (a^2 + b^2 + C1), C1 = 0.01^2, but for a rim of 5 pixels of the 40 a side.
    # Copies of a film are not counted.
    flat = np.full((SIDE, SIDE), 0.6, np.float32)
    change = np.where(LESION, np.float32(0.4), np.float32(0))
    films = [
        replace(one, evidence=replace(one.evidence, plane=flat))
        for one in (case("d1", change), case("d2", 0 * change), *[case("d1", 0 * change)] * 3)
    ]
    found = edits().validity([], {"boxed": films[:2], "masked": films[2:]})
    low = (2 * 0.6 * 0.2 + 1e-4) / (0.6**2 + 0.2**2 + 1e-4)
    inside = found["ssim_input_inside_lesion"]["mean"]
    assert (1 + low) / 2 - 0.5 * low * (1 - (30 / 40) ** 2) < inside < (1 + low) / 2 + 0.01
    assert 0.97 < found["ssim_input_outside_lesion"]["mean"] < 1


def test_a_judge_that_tells_sources_apart_is_told_from_one_that_tells_films_apart() -> None:
    # Sick films are bright but for two: 2 at 0.1 and 7 at 0.8, one of a source of its own, against
    # normal ones at 0.2 and 0.7, two each: 7 x 4 of 9 x 4 pairs are in order.
    levels = {"dark": ((0.1, 2), (0.2, 2)), "bright": ((0.8, 6), (0.7, 2))}
    films = [
        seen("", label, source, np.full((SIDE, SIDE), level, np.float32))
        for source, both in levels.items()
        for label, (level, number) in zip(("COVID", "Normal"), both, strict=True)
        for _ in range(number)
    ]
    films.append(seen("", "COVID", "alone", np.full((SIDE, SIDE), 0.8, np.float32)))
    found = edits(Bright()).validity(films, {})["judges_auroc"]
    assert found["classifier"]["mean"] == pytest.approx(28 / 36)
    assert {name: of["classifier"]["mean"] for name, of in found["sources"].items()} == {
        "dark": 0, "bright": 1,
    }  # fmt: skip
