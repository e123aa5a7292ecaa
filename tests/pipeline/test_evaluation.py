"""Scores by hand: precision over recall, its interval, fidelity."""

import math

import numpy as np
import pytest

from pipeline.evaluation import fidelity, localisation
from pipeline.training.dataset import Box
from pipeline.types import Radiograph


def precision(truth: list[int], score: list[float]) -> float:
    return localisation.average_precision(np.array(truth, bool), np.array(score, np.float32))


@pytest.mark.parametrize(
    ("truth", "score", "expected"),
    [
        ([1, 1, 0, 0], [4, 3, 2, 1], 1.0),
        ([1, 0, 1, 0], [4, 3, 2, 1], 0.5 * 1 + 0.5 * 2 / 3),
        ([0, 0, 1, 1], [4, 3, 2, 1], 0.5 * 1 / 3 + 0.5 * 2 / 4),
        ([0, 0, 0, 1], [4, 3, 2, 1], 0.25),
        # One step where all is tied: the prevalence.
        ([1, 0, 0, 0], [0, 0, 0, 0], 0.25),
        # The tie of the last three is one step, whatever their order.
        ([1, 0, 0, 1], [2, 1, 1, 1], 0.5 * 1 + 0.5 * 2 / 4),
        ([1, 1, 0, 0], [2, 1, 1, 1], 0.5 * 1 + 0.5 * 2 / 4),
        ([1, 1, 1, 1], [1, 5, 3, 2], 1.0),
    ],
)
def test_average_precision_is_the_step_sum(
    truth: list[int], score: list[float], expected: float
) -> None:
    assert precision(truth, score) == pytest.approx(expected)


def test_average_precision_of_nothing_to_find_is_no_number() -> None:
    assert math.isnan(precision([0, 0], [2, 1]))


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = localisation.bootstrap(np.full(7, 0.25), seed=0)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_mean_of_two_films_may_be_either_alone() -> None:
    # A resample of {0, 1} means 0, 1/2 or 1 with chances 1/4, 1/2, 1/4: both tails reach the ends.
    found = localisation.bootstrap(np.array([0.0, 1.0]), seed=0)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_an_interval_of_many_films_is_that_of_the_normal_distribution() -> None:
    # 400 films, half 0 and half 1: the mean's SD is 0.5 / 20, times 1.96.
    found = localisation.bootstrap(np.tile([0.0, 1.0], 200), seed=0)
    assert found.low == pytest.approx(0.5 - 0.049, abs=0.004)
    assert found.high == pytest.approx(0.5 + 0.049, abs=0.004)


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    values = np.random.default_rng(0).random(30)
    assert localisation.bootstrap(values, 1) == localisation.bootstrap(values, 1)
    assert localisation.bootstrap(values, 1) != localisation.bootstrap(values, 2)


def box(x0: float, y0: float, x1: float, y1: float) -> Box:
    return Box(finding="Nodule", x0=x0, y0=y0, x1=x1, y1=y1)


def test_a_mask_is_inside_any_box_and_x_are_columns() -> None:
    mask = localisation.box_mask([box(0, 0, 0.5, 0.25), box(0.75, 0.75, 1, 1)], 4)
    assert mask.astype(int).tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0, 0, 0, 1]]


def test_a_box_smaller_than_a_pixel_is_one_pixel() -> None:
    assert localisation.box_mask([box(0.51, 0.51, 0.52, 0.52)], 4).sum() == 1


def test_maps_that_are_their_truths_gain_over_the_other_films() -> None:
    top, bottom = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    top[0], bottom[3] = 1, 1
    found = localisation.localise([top, bottom], [top > 0, bottom > 0])
    # The other film's map puts four wrong pixels first; the tie of the rest ends at 4 of 16.
    assert (found.films, found.prevalence, found.pointing) == (2, 0.25, 1.0)
    assert (found.auprc.mean, found.shuffled.mean, found.gain.mean) == (1.0, 0.25, 0.75)


def test_a_map_whose_peak_lies_outside_does_not_point() -> None:
    right, wrong = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    right[0, 0], wrong[3, 3] = 1, 1
    truth = right > 0
    assert localisation.localise([right, wrong], [truth, truth]).pointing == 0.5


def test_scaling_averages_areas() -> None:
    plane = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert localisation.to_side(plane, 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_a_tenth_off_everywhere_is_20_db_and_the_same_film_infinite() -> None:
    film = Radiograph(pixels=np.full((8, 8), 0.5, np.float32))
    assert fidelity.psnr_db(film, film.pixels + np.float32(0.1)) == pytest.approx(20, abs=1e-4)
    assert fidelity.psnr_db(film, film.pixels) == math.inf
