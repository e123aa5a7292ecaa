"""Padding and shutters are left out."""

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node import shutter

_STORED = np.arange(80, dtype=np.uint16).reshape(8, 10)


def _mask(**attributes: object) -> shutter.Mask:
    return _mask_on(1.0, attributes)


def _mask_on(aspect: float, attributes: dict[str, object]) -> shutter.Mask:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return shutter.picture_mask(ds, _STORED, aspect)


def _rectangle(left: int, right: int, upper: int, lower: int) -> dict[str, object]:
    return {
        "ShutterLeftVerticalEdge": left,
        "ShutterRightVerticalEdge": right,
        "ShutterUpperHorizontalEdge": upper,
        "ShutterLowerHorizontalEdge": lower,
    }


def test_nothing_stated_leaves_the_whole_film() -> None:
    assert _mask().all()


def test_the_padding_value_is_left_out() -> None:
    assert np.argwhere(~_mask(PixelPaddingValue=12)).tolist() == [[1, 2]]


@pytest.mark.parametrize(("value", "limit"), [(12, 14), (14, 12)])
def test_the_padding_range_is_left_out_with_both_ends(value: int, limit: int) -> None:
    mask = _mask(PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    assert np.argwhere(~mask).tolist() == [[1, 2], [1, 3], [1, 4]]


def test_signed_padding_written_as_unsigned_is_understood() -> None:
    ds = Dataset()
    ds.add_new("PixelPaddingValue", "US", 0xFFFF)
    stored = np.array([[-1, 5, 6]], np.int16)
    assert shutter.picture_mask(ds, stored, 1.0).tolist() == [[False, True, True]]


def test_a_rectangle_counts_rows_and_columns_from_one_with_its_edges() -> None:
    mask = _mask(ShutterShape="RECTANGULAR", **_rectangle(2, 4, 3, 8))
    expected = np.zeros((8, 10), bool)
    expected[2:8, 1:4] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_circle_keeps_what_is_within_its_radius() -> None:
    mask = _mask(ShutterShape="CIRCULAR", CenterOfCircularShutter=[4, 6], RadiusOfCircularShutter=2)
    assert np.argwhere(mask)[:, 0].min() == 1
    assert mask[3, 3:8].all()
    assert not mask[3, 2]
    assert mask.sum() == 13  # lattice points within 2 of one


def test_a_circle_on_tall_pixels_spans_fewer_rows() -> None:
    circle: dict[str, object] = {
        "ShutterShape": "CIRCULAR",
        "CenterOfCircularShutter": [4, 6],
        "RadiusOfCircularShutter": 2,
    }
    mask = _mask_on(2.0, circle)
    assert np.unique(np.argwhere(mask)[:, 0]).tolist() == [2, 3, 4]


def test_a_polygon_keeps_its_inside() -> None:
    # A triangle with corners (row, column) 1\1, 1\9 and 9\1: half of the upper left square
    mask = _mask(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[1, 1, 1, 9, 9, 1])
    expected = np.add.outer(np.arange(8), np.arange(10)) < 8
    np.testing.assert_array_equal(mask, expected)


def test_a_hollow_polygon_leaves_its_hollow_out() -> None:
    u_shape = [1, 1, 9, 1, 9, 9, 1, 9, 1, 7, 5, 7, 5, 3, 1, 3]
    mask = _mask(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=u_shape)
    assert mask[1].tolist() == [True] * 2 + [False] * 4 + [True] * 2 + [False] * 2
    assert mask[6].tolist() == [True] * 8 + [False] * 2


def test_several_shapes_leave_what_is_inside_all() -> None:
    mask = _mask(
        ShutterShape=["RECTANGULAR", "CIRCULAR"],
        CenterOfCircularShutter=[4, 6],
        RadiusOfCircularShutter=2,
        **_rectangle(1, 6, 1, 8),
    )
    assert mask.sum() == 9


@pytest.mark.parametrize(
    "attributes",
    [
        {"ShutterShape": "RECTANGULAR"},
        {"ShutterShape": "RECTANGULAR", **_rectangle(5, 4, 5, 4)},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [4, 6]},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 5]},
        {"ShutterShape": "STAR"},
    ],
)
def test_a_shutter_that_makes_no_sense_leaves_the_whole_film(attributes: dict[str, object]) -> None:
    assert _mask(**attributes).all()


def test_padding_that_takes_the_whole_film_is_a_mistake() -> None:
    assert _mask(PixelPaddingValue=0, PixelPaddingRangeLimit=200).all()
