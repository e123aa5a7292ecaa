"""Turning upright and back loses nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from dicom_node import orientation
from dicom_node.orientation import Orientation

_SIDES = st.integers(1, 9)
_ORIENTATIONS = st.builds(
    Orientation,
    rows=_SIDES,
    columns=_SIDES,
    transposed=st.booleans(),
    flipped_rows=st.booleans(),
    flipped_columns=st.booleans(),
)
_FRACTIONS = st.floats(0, 1)

# Of a patient seen from the front, upright: R at the left, H on top; see the picture as letters.
_UPRIGHT = np.array([["head right", "head left"], ["foot right", "foot left"]])


def _of(*values: str) -> Orientation:
    ds = Dataset()
    ds.PatientOrientation = list(values)
    return orientation.of(ds, 2, 2)


@pytest.mark.parametrize(
    ("along_row", "along_column", "stored"),
    [
        ("L", "F", [["head right", "head left"], ["foot right", "foot left"]]),
        ("R", "F", [["head left", "head right"], ["foot left", "foot right"]]),
        ("L", "H", [["foot right", "foot left"], ["head right", "head left"]]),
        ("R", "H", [["foot left", "foot right"], ["head left", "head right"]]),
        ("F", "L", [["head right", "foot right"], ["head left", "foot left"]]),
        ("H", "L", [["foot right", "head right"], ["foot left", "head left"]]),
        ("F", "R", [["head left", "foot left"], ["head right", "foot right"]]),
        ("H", "R", [["foot left", "head left"], ["foot right", "head right"]]),
    ],
)
def test_each_frontal_orientation_is_turned_upright(
    along_row: str, along_column: str, stored: list[list[str]]
) -> None:
    found = _of(along_row, along_column).to_upright(np.array(stored))
    np.testing.assert_array_equal(found, _UPRIGHT)


@pytest.mark.parametrize(
    "values",
    [
        ("A", "F"),
        ("P", "F"),
        ("L", "P"),
        ("L", "R"),
        ("L",),
        ("L", "F", "A"),
        ("", "F"),
        ("X", "F"),
        ("R", "?"),
        ("RL", "F"),
        ("RR", "F"),
        ("LEFT", "FOOT"),
    ],
)
def test_lateral_and_invalid_orientations_are_left_alone(values: tuple[str, ...]) -> None:
    assert _of(*values) == Orientation(rows=2, columns=2)


def test_an_absent_orientation_is_left_alone() -> None:
    assert orientation.of(Dataset(), 3, 4) == Orientation(rows=3, columns=4)


def test_an_oblique_direction_counts_by_its_first_letter() -> None:
    assert _of("RA", "FP") == Orientation(rows=2, columns=2, flipped_columns=True)


@given(_ORIENTATIONS)
def test_an_image_comes_back_as_it_was(turn: Orientation) -> None:
    stored = np.arange(turn.rows * turn.columns).reshape(turn.rows, turn.columns)
    upright = turn.to_upright(stored)
    assert upright.shape == turn.upright_shape
    np.testing.assert_array_equal(turn.to_source(upright), stored)


@given(_ORIENTATIONS)
def test_colour_planes_stay_with_their_pixels(turn: Orientation) -> None:
    stored = np.arange(turn.rows * turn.columns * 3).reshape(turn.rows, turn.columns, 3)
    upright = turn.to_upright(stored)
    np.testing.assert_array_equal(upright[..., 1], turn.to_upright(stored[..., 1]))
    np.testing.assert_array_equal(turn.to_source(upright), stored)


@given(_ORIENTATIONS, _FRACTIONS, _FRACTIONS)
def test_a_point_comes_back_where_it_was(turn: Orientation, down: float, right: float) -> None:
    row, col = down * turn.rows, right * turn.columns
    assert turn.point_to_source(*turn.point_to_upright(row, col)) == pytest.approx((row, col))


@given(_ORIENTATIONS, _FRACTIONS, _FRACTIONS)
def test_a_pixels_middle_is_the_same_pixels_middle(
    turn: Orientation, down: float, right: float
) -> None:
    stored = np.arange(turn.rows * turn.columns).reshape(turn.rows, turn.columns)
    upright = turn.to_upright(stored)
    at_row, at_col = (int(f * (n - 1)) for f, n in zip((down, right), upright.shape, strict=True))
    row, col = turn.point_to_source(at_row + 0.5, at_col + 0.5)
    assert stored[int(row), int(col)] == upright[at_row, at_col]
    assert (row % 1, col % 1) == (0.5, 0.5)


def test_the_outer_corner_stays_an_outer_corner() -> None:
    turn = Orientation(rows=128, columns=160, flipped_columns=True)
    assert turn.point_to_source(0.0, 0.0) == (0.0, 160.0)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4)])
def test_an_image_of_another_size_is_refused(shape: tuple[int, int]) -> None:
    turn = Orientation(rows=2, columns=3, transposed=True)
    with pytest.raises(ValueError, match="rows and columns"):
        turn.to_upright(np.zeros(shape))
    with pytest.raises(ValueError, match="rows and columns"):
        turn.to_source(np.zeros((2, 3)))
