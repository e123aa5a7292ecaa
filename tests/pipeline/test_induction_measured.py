"""What is measured of induction, of a model whose every change is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import induction, prompts
from pipeline.classifier import FEATURES, Classifier
from pipeline.evaluation.cases import Judges
from pipeline.evaluation.inducing import Inducing
from pipeline.evaluation.seen import Seen
from pipeline.evaluation.validity import Pair
from pipeline.induction import Induced
from pipeline.training import lesions
from pipeline.training.dataset import FilmRow
from pipeline.types import Image, Status
from tests.pipeline import chests

FILMS = 2 * len(prompts.ZONES) * len(prompts.FINDINGS)


class Level(Classifier):
    """Abnormal is a film whose mean is above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self._level = level

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3)) / 2 + 0.5 - self._level


def fake(where: Any, taken: float) -> Any:
    """An induction that takes so much from where it was asked and adds 0.2 at `where` of that."""

    def induce(model: Any, plane: Image, prompt: str, seed: int, mask: Any = None) -> Induced:
        assert plane.max() <= 1, "a film that the image gate refuses"
        zone = next(name for name in prompts.ZONES if prompt.startswith(name))
        asked = lesions.zone_mask(zone, chests.lungs())
        change = np.where(asked, np.float32(-taken), 0) + np.where(where(asked), np.float32(0.2), 0)
        return Induced(prompt=prompt, change=change.astype(np.float32))

    return induce


def measured(
    monkeypatch: pytest.MonkeyPatch, where: Any, judges: Judges, taken: float = 0.1
) -> Any:
    monkeypatch.setattr(induction, "induce", fake(where, taken))
    gate = SimpleNamespace(refusal=lambda film: "not a chest" if film.max() > 1 else "")
    model: Any = SimpleNamespace(denoiser=SimpleNamespace(paired=True), image_gate=gate)
    row = FilmRow(
        file="m", tar="", split="test", label="Normal", source="s", view="", flags=frozenset()
    )
    film = chests.flat()
    pair = Pair(film=film, counterfactual=film, places=film, lungs=chests.lungs())
    unlike = replace(pair, film=film + 1)  # which induction would refuse
    adult = [Seen(row=row, pair=p, status=Status.VALID) for p in (unlike, *[pair] * (FILMS + 3))]
    return Inducing(model, judges, lambda films, _: films).everything(adult)


def judges(classifier: float, witness: float | None = None) -> Judges:
    nothing: Any = None
    return Judges(
        classifier=Level(classifier),
        segmenter=None,
        encoder=nothing,
        witness=None if witness is None else Level(witness),
    )


def test_change_away_from_the_zone_counts_wherever_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a zone's n pixels 0.1 each is taken; 2 n pixels outside the lungs gain 0.2 each: a fifth
    # of all change is in the zone. No zone of the lungs has more, and nothing there is brighter.
    found = measured(monkeypatch, outside, judges(0.9))
    assert found["films"] == FILMS
    alone = found["prompt alone"]
    assert alone["change_in_zone"]["mean"] == pytest.approx(1 / 5, abs=1e-5)
    assert alone["brightening_in_zone"]["mean"] == 0
    assert alone["zone_right"]["mean"] == 1
    assert alone["zone_right_by_finding"].keys() == set(prompts.FINDINGS)
    assert found["with a mask"]["change_in_zone"] == alone["change_in_zone"]


def outside(asked: Any) -> Any:
    """Twice as many pixels above the lungs, of which the first 40 rows hold 8,960."""
    rows = np.zeros_like(asked)
    rows.ravel()[: 2 * asked.sum()] = True
    return rows


def test_who_changes_nothing_in_the_lungs_is_right_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, outside, judges(0.9), taken=0)["prompt alone"]
    assert found["change_in_zone"]["mean"] == 0
    assert found["zone_right"]["mean"] == 0


def test_the_wrong_zone_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mirrored about the film's middle is the other lung, and it gains twice what the zone loses.
    found = measured(monkeypatch, lambda asked: asked[:, ::-1], judges(0.9))["prompt alone"]
    assert found["zone_right"]["mean"] == 0
    assert found["change_in_zone"]["mean"] == pytest.approx(1 / 3, abs=1e-5)


def test_a_judge_sees_what_crosses_its_line_and_only_of_films_that_were_normal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The zone gains 0.1 in sum. A change rolled elsewhere is as bright, so it crosses as well. The
    # witness calls every film abnormal before: of none may it say that it became so.
    mean = float(chests.flat().mean())
    zone = lesions.zone_mask(prompts.ZONES[0], chests.lungs()).sum() / chests.flat().size
    found = measured(
        monkeypatch, lambda asked: asked, judges(mean + 0.04 * zone, mean - 0.1)
    )["prompt alone"]  # fmt: skip
    assert found["classifier"]["logit_rise"]["mean"] == pytest.approx(0.1 * zone, rel=0.05)
    assert found["classifier"]["called_abnormal"]["mean"] == 1
    assert found["classifier"]["the_same_change_elsewhere"]["mean"] == 1
    assert found["witness"]["called_abnormal"] == {"films": 0}
