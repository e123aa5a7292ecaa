"""Scores by hand: precision over recall, its interval, fidelity."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from pipeline.classifier import FEATURES, SOURCES, Classifier
from pipeline.evaluation import (
    audits,
    baselines,
    charts,
    fidelity,
    localisation,
    reliability,
    report,
    sets,
    statistics,
    summary,
    validity,
)
from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.validity import Pair
from pipeline.training import absorption
from pipeline.training.dataset import Box
from pipeline.types import Image
from tests.pipeline import chests


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
    found = statistics.bootstrap(np.full(7, 0.25), seed=0)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_mean_of_two_films_may_be_either_alone() -> None:
    # A resample of {0, 1} means 0, 1/2 or 1 with chances 1/4, 1/2, 1/4: both tails reach the ends.
    found = statistics.bootstrap(np.array([0.0, 1.0]), seed=0)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_an_interval_of_many_films_is_that_of_the_normal_distribution() -> None:
    # 400 films, half 0 and half 1: the mean's SD is 0.5 / 20, times 1.96.
    found = statistics.bootstrap(np.tile([0.0, 1.0], 200), seed=0)
    assert found.low == pytest.approx(0.5 - 0.049, abs=0.004)
    assert found.high == pytest.approx(0.5 + 0.049, abs=0.004)


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    values = np.random.default_rng(0).random(30)
    assert statistics.bootstrap(values, 1) == statistics.bootstrap(values, 1)
    assert statistics.bootstrap(values, 1) != statistics.bootstrap(values, 2)


def box(x0: float, y0: float, x1: float, y1: float) -> Box:
    return Box(finding="Nodule", x0=x0, y0=y0, x1=x1, y1=y1)


def test_a_mask_is_inside_any_box_and_x_are_columns() -> None:
    mask = localisation.box_mask([box(0, 0, 0.5, 0.25), box(0.75, 0.75, 1, 1)], 4)
    assert mask.astype(int).tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0, 0, 0, 1]]


def test_a_box_smaller_than_a_pixel_is_one_pixel() -> None:
    assert localisation.box_mask([box(0.51, 0.51, 0.52, 0.52)], 4).sum() == 1


def rows_of(*which: int) -> Image:
    plane = np.zeros((4, 4), np.float32)
    plane[list(which)] = 1
    return plane


EVERYWHERE = np.ones((4, 4), bool)


def test_maps_that_are_their_truths_gain_over_the_other_films() -> None:
    maps = [rows_of(0), rows_of(3)]
    truths = [plane > 0 for plane in maps]
    found = localisation.localise(maps, truths, [EVERYWHERE] * 2, ["", ""])
    assert (found.films, found.prevalence, found.pointing.mean) == (2, 0.25, 1.0)
    assert (found.auprc.mean, found.iou.mean, found.energy.mean) == (1.0, 1.0, 1.0)
    # The other film's map puts four wrong pixels first; the tie of the rest ends at 4 of 16.
    assert localisation.shuffled(maps, truths, ["", ""]).tolist() == [0.25, 0.25]


def test_a_map_whose_peak_lies_outside_does_not_point() -> None:
    right, wrong = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    right[0, 0], wrong[3, 3] = 1, 1
    truth = right > 0
    found = localisation.localise([right, wrong], [truth, truth], [EVERYWHERE] * 2, ["", ""])
    assert (found.pointing.mean, found.energy.mean) == (0.5, 0.5)


def test_in_lung_scores_leave_out_what_lies_outside() -> None:
    # Outside the lungs the map is highest and wrong; inside it is right.
    plane, truth = rows_of(0) * 2 + rows_of(3), rows_of(3) > 0
    lungs = rows_of(1, 2, 3) > 0
    found = localisation.localise([plane], [truth], [lungs], [""])
    assert found.in_lung is not None
    assert found.in_lung.mean == 1.0
    assert found.auprc.mean == 0.5


def test_another_films_map_is_moved_onto_the_films_own_lungs() -> None:
    # Two films, the same lesion in the same corner of lungs that lie elsewhere in the film.
    def film(row: int, col: int) -> tuple[np.ndarray, np.ndarray]:
        lungs, plane = np.zeros((32, 32), bool), np.zeros((32, 32), np.float32)
        lungs[row : row + 16, col : col + 16] = True
        plane[row + 2 : row + 6, col + 2 : col + 6] = 1
        return plane, lungs

    (first, first_lungs), (second, second_lungs) = film(0, 0), film(13, 13)
    truths = [first > 0, second > 0]
    lungs = [first_lungs, second_lungs]
    maps, nobody = [first, second], ["", ""]
    assert localisation.shuffled(maps, truths, nobody).max() < 0.05
    assert localisation.shuffled_in_lungs(maps, truths, lungs, nobody).min() > 0.9


@pytest.mark.parametrize(
    ("marked", "lesion", "expected"),
    [((0, 0), (1, 1), 1), ((0, 0), (1, 2), 0), ((3, 3), (2, 3), 1)],
)
def test_the_side_is_right_where_most_of_the_map_lies_with_the_lesion(
    marked: tuple[int, int], lesion: tuple[int, int], expected: float
) -> None:
    plane, truth = np.zeros((4, 4), np.float32), np.zeros((4, 4), bool)
    plane[marked], truth[lesion] = 1, True
    assert localisation.right_side(plane, localisation.one_side(truth)) == expected


def test_a_lesion_on_both_sides_has_no_side() -> None:
    assert localisation.one_side(rows_of(1) > 0) == 0


@pytest.mark.parametrize("blank", [np.zeros((4, 4)), np.ones((4, 4))])
def test_a_map_of_no_side_is_half_right(blank: np.ndarray) -> None:
    assert [localisation.right_side(blank, side) for side in (-1, 1)] == [0.5, 0.5]


def test_what_points_to_one_side_on_every_film_scores_a_half_whatever_lesions_there_are() -> None:
    def at(col: int) -> np.ndarray:
        plane = np.zeros((4, 4), np.float32)
        plane[0, col] = 1
        return plane

    truths = [at(0) > 0, at(3) > 0, at(3) > 0, at(2) > 0]
    always = localisation.right_sides([at(3)] * 4, truths, [""] * 4)
    ours = localisation.right_sides([at(1), at(3), at(0), at(0)], truths, [""] * 4)
    assert always is not None
    assert (always.mean, always.low, always.high) == (0.5, 0.5, 0.5)
    assert ours is not None
    assert ours.mean == (1 + 1 / 3) / 2  # the one on the left, and one of three on the right
    assert localisation.right_sides([at(3)] * 3, truths[1:], [""] * 3) is None


def test_another_film_is_another_patients() -> None:
    assert localisation.others(["a", "b", "a", ""], 0) == [1, 3]
    assert localisation.others(["a", "", ""], 1) == [0, 2]
    assert localisation.others(["a", "a"], 0) == [1]


def test_a_region_touches_what_readers_marked_where_the_product_would_show_it() -> None:
    plane, truth = np.zeros((16, 16), np.float32), np.zeros((16, 16), bool)
    truth[5, 5] = True
    plane[5:8, 5:9] = 0.5  # 12 pixels, at the threshold itself
    assert localisation.touches(plane, 0.5, truth)
    plane[7, 8] = 0.4  # 11 are none
    assert not localisation.touches(plane, 0.5, truth)
    plane[4:7, 4:8] = 0.5
    plane[5, 5] = 0.0  # a hole is of its region
    assert localisation.touches(plane, 0.5, truth)
    assert not localisation.touches(plane, 0.5, np.roll(truth, 8))


def test_a_share_has_its_exact_interval() -> None:
    # Clopper and Pearson: 0 of 10 reaches up to 1 - 0.025^(1/10).
    none = statistics.share_of(np.zeros(10))
    assert (none.mean, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025**0.1)
    assert statistics.share_of(np.ones(10)).low == pytest.approx(0.025**0.1)


def test_films_of_one_patient_tell_as_much_as_one() -> None:
    # Five patients, each with four films that are all alike: as much as five films.
    hits, patients = np.repeat([1.0, 0, 0, 1, 0], 4), np.repeat(list("abcde"), 4).tolist()
    several, few = statistics.share_of(hits, patients), statistics.share_of(hits[::4])
    assert (several.mean, several.low, several.high) == pytest.approx((0.4, few.low, few.high))
    assert few.low == pytest.approx(0.0527, abs=1e-4)  # 2 of 5: the table of Clopper and Pearson
    assert statistics.share_of(np.zeros(20), patients).high == pytest.approx(1 - 0.025**0.2)


def test_a_mean_is_resampled_by_patients() -> None:
    values = np.repeat([0.0, 1.0], 50)
    alone = statistics.bootstrap(values, 0)
    two = statistics.bootstrap(values, 0, ["a"] * 50 + ["b"] * 50)
    assert (two.mean, two.low, two.high) == (0.5, 0.0, 1.0)  # both drawn alike, one time in two
    assert (alone.low, alone.high) == pytest.approx((0.4, 0.6), abs=0.02)
    assert statistics.bootstrap(values, 0, [""] * 100).low == pytest.approx(0.4, abs=0.02)


def test_the_area_under_the_curve_counts_pairs() -> None:
    # Pairs: 2 > 1, 2 = 2 (half), 3 > 1, 3 > 2: 3.5 of 4.
    assert statistics.auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == 3.5 / 4


def test_scores_of_the_same_films_are_compared_in_pairs() -> None:
    rng = np.random.default_rng(0)
    sick = np.repeat([True, False], 40)
    noise = rng.normal(size=80)
    worse, better = noise + sick, noise + 1.5 * sick  # alike but for the step
    found = statistics.auroc_interval(sick, [better, worse, better], 0)
    ours, other, same, above, nothing = found
    assert above.mean == pytest.approx(ours.mean - other.mean)
    assert above.low > 0  # though their own intervals overlap
    assert ours.low < other.high
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)
    assert same == ours


def test_scaling_averages_areas() -> None:
    plane = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert localisation.to_side(plane, 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_a_tenth_off_everywhere_is_20_db_and_the_same_film_infinite() -> None:
    film = np.full((8, 8), 0.5, np.float32)
    assert fidelity.psnr_db(film, film + np.float32(0.1)) == pytest.approx(20, abs=1e-4)
    assert fidelity.psnr_db(film, film) == math.inf


def test_similarity_of_flat_films_is_that_of_their_brightness() -> None:
    # Without variance SSIM is (2 a b + C1) / (a^2 + b^2 + C1), C1 = 0.01^2.
    dark, bright = np.full((32, 32), 0.4, np.float32), np.full((32, 32), 0.6, np.float32)
    expected = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert fidelity.ssim(dark, bright) == pytest.approx(expected, abs=1e-3)
    assert fidelity.ssim(dark, dark) == pytest.approx(1)


def test_similarity_somewhere_looks_nowhere_else() -> None:
    film = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    other, left = film.copy(), np.zeros((64, 64), bool)
    other[:, 40:] = 0
    left[:, :20] = True
    assert fidelity.ssim_where(film, other, left) == pytest.approx(1)
    assert fidelity.ssim_where(film, other, ~left) < 0.8
    assert math.isnan(fidelity.ssim_where(film, other, np.zeros_like(left)))


def test_where_a_distance_lies_between_its_anchors() -> None:
    assert sets.share_of_the_way(0.3, 0.1, 0.5) == pytest.approx(0.5)
    assert math.isnan(sets.share_of_the_way(0.3, 0.5, 0.5))


class _Brightness(Classifier):
    """Its features are a film's first two pixels, -1 .. 1."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2]


def _films(brightness: float, seed: int) -> list[Image]:
    drawn = np.random.default_rng(seed).normal(brightness, 0.05, (60, 2, 1))
    return list(drawn.astype(np.float32))


def test_counterparts_stand_at_the_ceiling_like_sick_films_and_at_the_floor_like_normal() -> None:
    encoder = sets.Encoder("first pixels", _Brightness(), 2)
    normal, sick = _films(0.3, 0), _films(0.7, 1)
    unchanged = sets.standing(encoder, normal, sick, sick, seed=0)
    assert unchanged is not None
    assert (unchanged.share.mean, unchanged.share.low, unchanged.share.high) == (1, 1, 1)
    mended = sets.standing(encoder, normal, sick, _films(0.3, 2), seed=0)
    assert mended is not None
    assert mended.share.low < 0 < mended.share.high
    assert mended.share.high - mended.share.low < 0.2
    assert sets.standing(encoder, normal[:9], sick, sick, seed=0) is None


def test_the_floor_does_not_hang_on_the_order_of_the_films() -> None:
    # Sorted, the first half of the films is darker than the second: as far as two sources are.
    encoder = sets.Encoder("first pixels", _Brightness(), 2)
    normal, sick = sorted(_films(0.3, 0), key=lambda film: float(film[0, 0])), _films(0.7, 1)
    found = sets.standing(encoder, normal, sick, sick, seed=0)
    assert found is not None
    assert found.floor.kid.low < 0 < found.floor.kid.high  # without bias: of one set it is 0
    assert abs(found.floor.kid.mean) < 0.02 * found.ceiling.kid.mean
    # Both features run from -1 to 1: dark films are at -0.4, bright ones at 0.4. The kernel of two
    # points is (x . y / 2 + 1)^3: of films alike (0.4^2 + 1)^3, of unlike ones (1 - 0.4^2)^3.
    far = 2 * (0.4**2 + 1) ** 3 - 2 * (1 - 0.4**2) ** 3
    assert found.ceiling.kid.mean == pytest.approx(far, rel=0.1)
    assert found.ceiling.kid.low < found.ceiling.kid.mean < found.ceiling.kid.high
    assert found.ceiling.fid.mean == pytest.approx(2 * 0.8**2, rel=0.1)
    alone = sets.distance(encoder, normal, sick, seed=0)
    assert alone == found.ceiling


@pytest.mark.parametrize("films", [9, 2])
def test_frechets_distance_of_sets_moved_and_stretched(films: int) -> None:
    # Moved by (3, 4, 0): 25. Twice as wide: tr C + 4 tr C - 2 tr 2 C = tr C, of more films than
    # features, or fewer.
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(films, 3)))
    spread = float(((x - x.mean(0)) ** 2).sum() / (films - 1))
    assert sets.frechet(x, x + torch.tensor([3.0, 4, 0])) == pytest.approx(25)
    assert sets.frechet(x, 2 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(spread)


def test_calibration_error_by_hand() -> None:
    # Bin of 0.25: half true, 0.25 off; bin of 0.95: all true, 0.05 off; two films of four each.
    p, truth = np.array([0.25, 0.25, 0.95, 0.95]), np.array([1.0, 0.0, 1.0, 1.0])
    assert reliability.expected_calibration_error(p, truth) == pytest.approx(0.15)
    assert reliability.squared_errors(p, truth).mean() == pytest.approx(
        (0.75**2 + 0.25**2 + 2 * 0.05**2) / 4
    )


def test_a_reliability_diagrams_points_by_hand() -> None:
    # 0.2 belongs to the third tenth and 1.0 to the last; a tenth without a film has no point.
    p, truth = np.array([0.2, 0.28, 0.95, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])
    found = reliability.tenths(p, truth)
    assert found.keys() == {"0.2 to 0.3", "0.9 to 1.0"}
    assert found["0.2 to 0.3"] == pytest.approx({"films": 2, "said": 0.24, "happened": 0.5})
    assert found["0.9 to 1.0"] == pytest.approx({"films": 2, "said": 0.975, "happened": 1.0})
    counts = reliability.counts_by_tenth(p)
    assert list(counts.values()) == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]

    drawn = charts.charts("reliability", {"tenths": found, "conformal": {"tenths": counts}})
    axes: list[Any] = [figure.axes[0] for _, figure in drawn]
    diagram, histogram = axes
    points = [tuple(point.get_offsets()[0]) for point in diagram.collections]
    assert points == [pytest.approx((0.24, 0.5)), pytest.approx((0.975, 1.0))]
    assert [bar.get_height() for bar in histogram.patches] == list(counts.values())


def test_the_calibration_errors_interval_holds_it_and_shrinks_with_the_films() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = (
        reliability.expected_calibration_error_interval(
            p, (rng.random(len(p)) < p).astype(float), [""] * len(p), 0
        )
        for p in (rng.random(60), rng.random(6000))
    )
    assert wide.low <= wide.mean <= wide.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3


def test_the_calibration_errors_interval_is_by_patient() -> None:
    # Four films each of 25 patients tell as much as 25 films: twice as wide as 100 of as many.
    rng = np.random.default_rng(0)
    p = np.repeat(rng.random(25), 4)
    truth = np.repeat(rng.random(25) < p[::4], 4).astype(float)
    films, patients = (
        reliability.expected_calibration_error_interval(p, truth, groups, 0)
        for groups in ([""] * 100, [str(number // 4) for number in range(100)])
    )
    assert patients.mean == films.mean
    assert patients.high - patients.low > 1.4 * (films.high - films.low)


def test_even_p_values_are_uniform_and_crowded_ones_are_not() -> None:
    even, crowded = (np.arange(100) + 0.5) / 100, np.full(100, 0.01)
    assert reliability.not_uniform(even)[1] > 0.99
    assert reliability.not_uniform(crowded)[1] < 1e-6


def test_an_absorbing_lesion_covers_its_share_and_nothing_outside_the_lungs() -> None:
    normal, lungs = chests.flat(), chests.lungs()
    for seed, share in enumerate((0.05, 0.1, 0.2)):
        known = absorption.lesion(np.random.default_rng(seed), normal, lungs, share)
        assert (known.film >= normal - 1e-6).all()  # what absorbs is whiter
        changed = np.abs(known.film - normal) > 1e-4
        near = ndimage.binary_dilation(lungs, iterations=6)
        assert not (changed & ~near).any()
        assert 0.3 * share < known.mask.sum() / lungs.sum() < 2 * share


class Brightness(Classifier):
    """Abnormal is what is brighter than a half on the mean; its source is always the first."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))


class Glimmer(Brightness):
    """Abnormal is what is brighter than a twentieth on the mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.9


def test_a_judge_s_name_stands_for_films_only_where_they_are_those_it_calls_abnormal() -> None:
    share = {"mean": 0.5, "low": 0.4, "high": 0.6, "films": 9}
    told = dict(
        summary.flat(
            {
                "witness": {"flipped": share},
                "judges_auroc": {"witness": share},
                "prompt alone": {"witness": {"called_abnormal": share}},
            }
        )
    )
    assert list(told) == [
        "of films that the witness calls abnormal: flipped",
        "judges auroc: witness",
        "prompt alone: witness: of films that it called normal before, it calls abnormal",
    ]


def test_an_edit_that_flips_is_told_from_the_same_change_elsewhere() -> None:
    # The film is bright by its lungs alone. Taking that away darkens it; the same change moved
    # elsewhere falls on what is black already, where there is nothing to take.
    lungs = np.zeros((64, 64), bool)
    lungs[:, :16] = True
    film = lungs.astype(np.float32)
    pair = Pair(film=film, counterfactual=0 * film, places=film, lungs=lungs)
    found = validity.judge(Glimmer(), [pair] * 4, [], seed=0)
    assert found is not None
    assert found.films == 4
    assert found.ceiling is None  # nobody's lungs were given
    assert (found.flipped.mean, found.off_target.mean) == (1.0, 0.0)
    assert (found.by_chance.mean, found.gain.mean) == (0.0, 1.0)


class OfColumns(Brightness):
    """Sees these columns alone; abnormal is what is brighter than 0.55 on their mean."""

    def __init__(self, cols: slice) -> None:
        super().__init__()
        self._cols = cols

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[..., self._cols]) - 0.1


@pytest.mark.parametrize(("cols", "by_mirror"), [(slice(42, 112), 0.0), (slice(30, 218), 1.0)])
def test_an_edit_in_one_lung_is_told_from_the_same_change_in_the_other(
    cols: slice, by_mirror: float
) -> None:
    # A film at 0.6 whose right lung is made darker by 0.4, a little off the middle of the film: a
    # judge that looks at that lung sees a difference to the other one, one that sees both does not.
    lungs = np.roll(chests.lungs(), 12, axis=1)
    film = np.full(lungs.shape, 0.6, np.float32)
    made = np.where(lungs & (np.arange(224) < 112), np.float32(0.2), film)
    pair = Pair(film=film, counterfactual=made, places=film, lungs=lungs)
    found = validity.judge(OfColumns(cols), [pair] * 4, [], seed=0)
    assert found is not None
    assert (found.flipped.mean, found.by_mirror.mean) == (1.0, by_mirror)
    assert found.gain_over_mirror.mean == 1 - by_mirror
    assert found.in_lungs_by_mirror.mean == pytest.approx(1)
    assert found.in_lungs_by_chance.mean < 0.6


def test_what_is_missing_to_a_normal_films_lungs_is_told_of_the_same_films_and_by_patient() -> None:
    # Four films with white lungs; the edit heals two of them, a normal film's lungs all.
    well, lungs = chests.flat(), chests.lungs()
    sick = np.where(lungs, np.float32(chests.TISSUE), well)
    level = float(sick.mean() + well.mean()) / 2

    class Level(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1 - 2 * level

    pairs = [
        Pair(film=sick, counterfactual=made, places=sick, lungs=lungs)
        for made in (well, sick, well, sick)
    ]
    donor = replace(pairs[0], film=well)
    found, clustered = (
        validity.judge(Level(), pairs, [donor], 0, groups)
        for groups in (None, ["a", "a", "b", "b"])
    )
    for judged, independent in ((found, 4), (clustered, 2)):
        assert judged is not None
        assert judged.ceiling is not None
        assert judged.minus_ceiling is not None
        assert (judged.flipped.mean, judged.minus_ceiling.mean) == (0.5, -0.5)
        assert judged.ceiling.low == pytest.approx(0.025 ** (1 / independent))
    # Half of each patient's films are healed: no patient says otherwise.
    assert clustered is not None
    assert clustered.minus_ceiling == Interval(mean=-0.5, low=-0.5, high=-0.5)


class Dated(Glimmer):
    """Knows a film's source by the brightness of its first pixel: in fourths, SOURCES in order."""

    def __init__(self) -> None:
        super().__init__()
        self.source = torch.nn.Identity()  # type: ignore[assignment]  # the features are its logits

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return functional.one_hot(((x[:, 0, 0, 0] + 1) * 2).long(), len(SOURCES)).float()


def test_a_source_is_kept_where_it_is_recognised_as_before_and_its_ceiling_is_that_of_lungs() -> (
    None
):
    # Of four sick films all have the date of the second source, which is true of three of them;
    # the edit changes the date of one of the three and of the other one. No lungs reach the date.
    film, lungs = np.full((224, 224), 0.9, np.float32), chests.lungs()
    film[0, 0] = 0.3
    other = film.copy()
    other[0, 0] = 0.6
    pairs = [
        Pair(film=film, counterfactual=made, places=film, lungs=lungs)
        for made in (film, film, other, other)
    ]
    donor = replace(pairs[0], film=chests.flat())
    true = [SOURCES[1]] * 3 + ["elsewhere"]
    found = validity.judge(Dated(), pairs, [donor], 0, sources=true)
    assert found is not None
    assert found.source_kept is not None
    assert found.source_kept.mean == 0.5
    assert found.films_of_right == 3
    assert found.source_kept_of_right is not None
    assert found.source_kept_of_right.mean == pytest.approx(2 / 3)
    for ceiling, films in (
        (found.source_kept_ceiling, 4),
        (found.source_kept_of_right_ceiling, 3),
    ):
        assert ceiling is not None
        assert ceiling.mean == 1
        assert ceiling.low == pytest.approx(0.025 ** (1 / films))
    without = validity.judge(Dated(), pairs, [], 0)
    assert without is not None
    assert (without.films_of_right, without.source_kept_ceiling) == (0, None)
    assert without.source_kept_of_right is None


def test_the_best_that_an_edit_of_lungs_can_do_is_another_films_lungs() -> None:
    # Two chests of one shape, one with white lungs: with the other's lungs it is the other. The
    # white of the lungs' blurred rim is all that a seam's brightness may carry over.
    well, lungs = chests.flat(), chests.lungs()
    sick = np.where(lungs, np.float32(chests.TISSUE), well)
    pair, donor = (
        Pair(film=film, counterfactual=film, places=film, lungs=lungs) for film in (sick, well)
    )
    (healed,) = validity.with_lungs_of([pair], [donor], seed=0)
    assert np.abs(healed - well).max() < 0.02
    assert np.abs(sick - well).max() > 0.2
    assert validity.with_lungs_of([pair], [], seed=0) == []
    nowhere = replace(pair, lungs=np.zeros_like(lungs))
    assert validity.with_lungs_of([nowhere], [donor], seed=0) == []


def test_films_that_the_judge_calls_normal_are_not_counted() -> None:
    dark = np.zeros((32, 32), np.float32)
    pair = Pair(film=dark, counterfactual=dark, places=dark, lungs=dark > 0)
    assert validity.judge(Brightness(), [pair], [], seed=0) is None


def test_grad_cam_lies_where_the_abnormal_weights_see_something() -> None:
    torch.manual_seed(0)
    model = Classifier().eval()
    with torch.no_grad():
        model.abnormal.weight.fill_(1.0)
    x = torch.zeros(1, 1, 64, 64)
    x[..., 40:56, 8:24] = torch.rand(16, 16)
    plane = baselines.grad_cam(model, x)
    assert plane.shape == (64, 64)
    assert plane.min() >= 0
    with torch.no_grad():
        model.abnormal.weight.fill_(-1.0)
    assert baselines.grad_cam(model, x).max() == 0  # what speaks against is not shown


def test_the_mean_box_of_a_film_leaves_its_own_out() -> None:
    truths = [rows_of(0) > 0, rows_of(1) > 0, rows_of(1) > 0]
    nobody = [""] * 3
    assert baselines.mean_of_others(truths, nobody, 0).tolist() == rows_of(1).tolist()
    assert baselines.mean_of_others(truths, nobody, 1)[0].tolist() == [0.5] * 4
    assert baselines.mean_of_others(truths, ["a", "b", "a"], 0).tolist() == rows_of(1).tolist()
    assert baselines.mean_of_others(truths, ["a", "b", "b"], 1).tolist() == rows_of(0).tolist()


@pytest.mark.parametrize(
    ("films", "best", "middle", "worst"),
    [
        (1, [0], [], []),
        (2, [0], [], [1]),
        (3, [0], [1], [2]),
        (8, [0, 1], [3, 4], [6, 7]),
        (9, [0, 1, 2], [3, 4, 5], [6, 7, 8]),
        (101, [0, 1, 2], [49, 50, 51], [98, 99, 100]),
    ],
)
def test_the_gallery_shows_no_film_twice(
    films: int, best: list[int], middle: list[int], worst: list[int]
) -> None:
    shown = {word: list(ranks) for word, ranks in report.picks(films).items()}
    assert shown == {"best": best, "middle": middle, "worst": worst}


def test_the_border_is_the_same_whatever_lies_within() -> None:
    film = np.random.default_rng(0).random((224, 224)).astype(np.float32)
    other, lungs = film.copy(), np.zeros((224, 224), bool)
    lungs[60:160, 60:160] = True
    other[lungs] = 0
    seen = audits.border(film, lungs)
    assert seen.shape == (56 * 56,)
    assert np.array_equal(seen, audits.border(other, lungs))
    assert not np.array_equal(seen, audits.border(np.roll(film, 1), lungs))


def test_frequencies_tell_a_wave_by_its_length_and_not_where_it_stands() -> None:
    # 14 waves a film: 14 of the 112 that a film can hold, times 40 rings, is ring 5.
    across = np.cos(2 * np.pi * 14 * np.arange(224) / 224)
    film, lungs = np.tile(across, (224, 1)).astype(np.float32), np.zeros((224, 224), bool)
    seen = audits.frequencies(film, lungs)
    assert seen.shape == (40,)
    assert (seen > 0).nonzero()[0].tolist() == [5]
    for moved in (np.roll(film, 3, axis=1), film.T):
        assert audits.frequencies(moved, lungs)[5] == pytest.approx(seen[5], abs=1e-4)


def bitten() -> np.ndarray:
    """The lungs of the chest of nobody, one without the part by the heart."""
    lungs = chests.lungs()
    lungs[80:140, 70:100] = False
    return lungs


def test_the_film_without_lungs_is_the_same_whatever_is_in_them_and_found_of_them() -> None:
    film = np.random.default_rng(0).random((224, 224)).astype(np.float32)
    other, lungs = film.copy(), chests.lungs()
    other[lungs] = 1
    seen = audits.without_lungs(film, lungs)
    assert np.array_equal(seen, audits.without_lungs(other, bitten()))
    assert not np.array_equal(seen, audits.without_lungs(film, np.roll(lungs, 16, axis=0)))
    assert not audits.without_lungs(film, np.zeros_like(lungs)).any()


def test_the_shape_of_lungs_is_told_without_the_film() -> None:
    film = np.random.default_rng(0).random((224, 224)).astype(np.float32)
    taught = [(film, bitten() if odd else chests.lungs(), odd) for odd in (False, True) * 6]
    judged = [(film, chests.lungs()), (film, bitten())]
    said = audits.scores(audits.lung_shape, taught, judged)
    assert said[0] < 0 < said[1]
    # 28 blocks a side, of 8 pixels: rows 40 to 180 are 17 of them and a half, and both lungs 70.
    assert audits.lung_shape(film, chests.lungs()).sum() == pytest.approx(2 * 140 * 70 / 8**2)


def test_an_audit_learns_what_its_look_can_tell() -> None:
    rng = np.random.default_rng(0)
    lungs = np.zeros((224, 224), bool)

    def film(bright_border: bool) -> np.ndarray:
        plane = rng.random((224, 224)).astype(np.float32) * 0.2
        plane[:10] += 0.6 * bright_border
        return plane

    taught = [(film(odd), lungs, odd) for odd in (False, True) * 6]
    said = audits.scores(audits.border, taught, [(film(False), lungs), (film(True), lungs)])
    assert said[0] < 0 < said[1]
