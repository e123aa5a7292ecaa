"""Preprocessing there and back, and regions with their outlines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import preprocess, regions
from pipeline.preprocess import Letterbox
from pipeline.types import Radiograph


def film(rows: int, cols: int, spacing: tuple[float, float] | None = None) -> Radiograph:
    return Radiograph(pixels=np.full((rows, cols), 0.5, np.float32), spacing_mm=spacing)


def test_a_portrait_film_is_centred_between_black_columns() -> None:
    box = preprocess.letterbox(film(400, 200), side=64)
    assert (box.top, box.left, box.height, box.width) == (0, 16, 64, 32)


def test_pixels_twice_as_tall_as_wide_make_the_film_twice_as_tall() -> None:
    box = preprocess.letterbox(film(200, 200, (0.2, 0.1)), side=64)
    assert (box.height, box.width) == (64, 32)


def test_the_square_is_black_around_the_film() -> None:
    radiograph = film(400, 200)
    plane = preprocess.to_grid(radiograph, preprocess.letterbox(radiograph, side=64))
    assert plane[:, :16].max() == 0
    assert plane[:, 48:].max() == 0
    assert np.allclose(plane[:, 16:48], 0.5)


@given(
    rows=st.integers(128, 400),
    cols=st.integers(128, 400),
    aspect=st.floats(0.5, 2.0),
    place=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
)
def test_a_point_goes_to_the_grid_and_back(
    rows: int, cols: int, aspect: float, place: tuple[float, float]
) -> None:
    box = preprocess.letterbox(film(rows, cols, (aspect, 1.0)), side=64)
    on_grid = (box.top + place[0] * box.height, box.left + place[1] * box.width)
    back = box.point_to_film(*on_grid)
    assert back == pytest.approx((place[0] * rows, place[1] * cols), abs=1e-6)


def square_box(rows: int = 128, cols: int = 128) -> Letterbox:
    return preprocess.letterbox(film(rows, cols), side=64)


def test_a_square_of_the_map_becomes_one_region_at_its_place() -> None:
    plane = np.zeros((64, 64), np.float32)
    plane[10:20, 30:44] = 0.8
    (region,) = regions.find(plane, 0.4, square_box())  # the film has 2 x 2 pixels a grid pixel
    rows, cols = zip(*region.outline, strict=True)
    assert region.area_px == 10 * 14 * 4
    assert (min(rows), max(rows)) == pytest.approx((20, 40), abs=1.01)
    assert (min(cols), max(cols)) == pytest.approx((60, 88), abs=1.01)
    assert region.outline[0] == region.outline[-1]
    assert region.peak == pytest.approx(0.8)
    assert region.mean == pytest.approx(0.8)


def test_a_region_holds_its_hole_and_what_lies_in_it() -> None:
    plane = np.zeros((64, 64), np.float32)
    plane[10:40, 10:40] = 0.8
    plane[15:35, 15:35] = 0.1
    plane[20:30, 20:30] = 0.9
    (region,) = regions.find(plane, 0.4, square_box())
    assert region.area_px == 30 * 30 * 4
    assert region.peak == pytest.approx(0.9)
    assert {min(min(point), 80 - max(point)) < 22 for point in region.outline} == {True}


def test_a_region_at_the_border_is_closed_inside_the_film() -> None:
    plane = np.zeros((64, 64), np.float32)
    plane[:8, :8] = 1.0
    (region,) = regions.find(plane, 0.5, square_box())
    assert region.outline[0] == region.outline[-1]
    assert min(min(point) for point in region.outline) >= 0.0


def test_regions_come_highest_peak_first_and_specks_are_left_out() -> None:
    plane = np.zeros((64, 64), np.float32)
    plane[5:15, 5:15] = 0.5
    plane[40:50, 40:50] = 0.9
    plane[60, 60] = 1.0
    assert [r.peak for r in regions.find(plane, 0.4, square_box())] == pytest.approx([0.9, 0.5])


def test_the_black_around_the_film_is_no_region() -> None:
    plane = np.ones((64, 64), np.float32)
    (region,) = regions.find(plane, 0.5, square_box(128, 64))
    assert region.area_px == 128 * 64


def test_a_map_below_the_threshold_has_no_region() -> None:
    assert regions.find(np.full((64, 64), 0.39, np.float32), 0.4, square_box()) == ()


def test_a_hole_belongs_to_what_the_outline_encloses() -> None:
    plane = np.zeros((64, 64), np.float32)
    plane[10:30, 10:30] = 0.8
    plane[15:25, 15:25] = 0.0
    (region,) = regions.find(plane, 0.4, square_box())  # the film has 2 x 2 pixels a grid pixel
    assert region.area_px == 20 * 20 * 4
    assert region.mean == pytest.approx(0.8)  # of the map above the threshold, not of the hole


def test_the_outline_is_the_outer_one_also_where_a_hole_has_more_points() -> None:
    plane = np.zeros((64, 64), np.float32)
    plane[2:62, 2:62] = 0.8
    plane[5:59:2, 5:58] = 0.0
    plane[5:59, 5] = 0.0  # a comb: one hole, its outline far longer than the square's
    (region,) = regions.find(plane, 0.4, square_box())
    rows, cols = zip(*region.outline, strict=True)
    assert (min(rows), max(rows)) == pytest.approx((4, 124), abs=1.01)
    assert (min(cols), max(cols)) == pytest.approx((4, 124), abs=1.01)
    assert region.area_px == 60 * 60 * 4
