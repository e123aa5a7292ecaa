"""The image gate: its Gaussian fitted to chests of nobody, its classifier's word given."""

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import nn

from pipeline import gates
from pipeline.gates import Gaussian, ImageGate, ViewClassifier
from tests.pipeline import chests

_AXES = 5


@pytest.fixture(scope="module")
def films() -> list[chests.Plane]:
    rng = np.random.default_rng(0)
    return [chests.varied(rng) for _ in range(40)]


@pytest.fixture(scope="module")
def gaussian(films: list[chests.Plane]) -> Gaussian:
    """Fitted to half of the films."""
    return gates.fit(np.stack([gates.thumbnail(film) for film in films[:20]]), _AXES)


def saying(logit: float) -> ViewClassifier:
    """A classifier that says the same of every film."""
    classifier = ViewClassifier()
    last = classifier.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, logit)
    return classifier


@pytest.fixture(scope="module")
def gate(gaussian: Gaussian, films: list[chests.Plane]) -> ImageGate:
    """Its limit is half again of what the farthest of the other films has."""
    return ImageGate(
        classifier=saying(2.0),
        gaussian=gaussian,
        least_logit=2.0,
        limit=1.5 * max(gaussian.distance(film) for film in films[20:]),
    )


def test_chests_that_it_was_not_fitted_to_pass(gate: ImageGate, films: list[chests.Plane]) -> None:
    assert {gate.refusal(film) for film in films[20::3]} == {""}


def test_a_chest_upside_down_is_refused_in_words(
    gate: ImageGate, films: list[chests.Plane]
) -> None:
    for film in films[::8]:
        assert gate.refusal(film[::-1]).startswith("not a chest: ")


def test_noise_and_a_negative_are_refused(gate: ImageGate, films: list[chests.Plane]) -> None:
    noise = np.random.default_rng(1).random(films[0].shape).astype(np.float32)
    assert gate.refusal(noise)
    assert all(gate.refusal(1 - film) for film in films[::8])


def test_a_film_that_the_classifier_does_not_believe_is_refused(
    gaussian: Gaussian, films: list[chests.Plane]
) -> None:
    limit = float("inf")
    gate = ImageGate(classifier=saying(1.9), gaussian=gaussian, least_logit=2.0, limit=limit)
    assert "logit 1.9, at least 2.0" in gate.refusal(films[20])


def test_brightness_and_contrast_do_not_count(
    gaussian: Gaussian, films: list[chests.Plane]
) -> None:
    paler = films[20] * np.float32(0.5) + np.float32(0.3)
    assert gaussian.distance(paler) == pytest.approx(gaussian.distance(films[20]), rel=1e-2)
    torch.manual_seed(0)
    classifier, seen = ViewClassifier(), torch.from_numpy(np.stack([films[20], paler]))[:, None]
    logits = classifier(seen)
    assert float(logits[0].detach()) == pytest.approx(float(logits[1].detach()), abs=1e-3)


def test_the_mean_distance_of_the_fitted_films_is_1(
    gaussian: Gaussian, films: list[chests.Plane]
) -> None:
    # Each axis contributes 1 on average, and all that lies outside them d - k.
    mean = np.mean([gaussian.distance(film) for film in films[:20]])
    assert mean == pytest.approx(1, rel=1e-3)
    assert np.allclose(gaussian.axes @ gaussian.axes.T, np.eye(_AXES), atol=1e-4)


def test_a_thumbnail_has_mean_0_and_sd_1(films: list[chests.Plane]) -> None:
    small = gates.thumbnail(films[0])
    assert small.shape == (784,)
    assert (float(small.mean()), float(small.std())) == pytest.approx((0, 1), abs=1e-4)


@pytest.mark.parametrize("axes", [19, 20, 48])
def test_a_gaussian_of_no_more_films_than_axes_still_tells_chests_from_noise(
    films: list[chests.Plane], axes: int
) -> None:
    few = gates.fit(np.stack([gates.thumbnail(film) for film in films[:20]]), axes)
    noise = np.random.default_rng(1).random(films[0].shape).astype(np.float32)
    assert few.distance(noise) > 2 * max(few.distance(film) for film in films[20:])


def test_a_gaussian_of_films_that_are_alike_has_a_width(films: list[chests.Plane]) -> None:
    alike = gates.fit(np.stack([gates.thumbnail(films[0])] * 20), _AXES)
    assert alike.distance(films[0]) < alike.distance(films[1]) < np.inf


@pytest.mark.parametrize("side", [512, 64])
def test_a_grid_that_28_does_not_divide_shows_the_same_thumbnail(
    films: list[chests.Plane], side: int
) -> None:
    """As a foreign model's grid: what lies at the film's border is there at the border still."""
    film = np.zeros_like(films[0])
    film[:, -12:] = 1  # of 224: a band that a cut border would lose
    film[100:, :] += films[0][100:, :]
    resized = np.asarray(
        Pillow.fromarray(film).resize((side, side), Pillow.Resampling.BOX), np.float32
    )
    likeness = np.corrcoef(gates.thumbnail(film), gates.thumbnail(resized))[0, 1]
    assert likeness > 0.98
