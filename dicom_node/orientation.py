"""How a stored image was turned to be upright, and the exact way back."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node import attributes

_Scalar = TypeVar("_Scalar", bound=np.generic)

_OPPOSITE = {"A": "P", "P": "A", "R": "L", "L": "R", "H": "F", "F": "H"}
"""Directions of a bipedal patient and their opposites (PS3.3 C.7.6.1.1.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """Steps from a stored image to the upright one: transpose first, then flip.

    Upright is PatientOrientation L\\F: the patient's right at the image's left, the head up.
    `rows` and `columns` are the stored image's. Points are continuous, 0.0 at the outer edge of
    the first pixel, as SCOORD measures them (PS3.3 C.18.6.1.2, there in the order column\\row).
    """

    rows: int
    columns: int
    transposed: bool = False
    flipped_rows: bool = False
    flipped_columns: bool = False

    @property
    def upright_shape(self) -> tuple[int, int]:
        """Rows and columns of the upright image."""
        return (self.columns, self.rows) if self.transposed else (self.rows, self.columns)

    def to_upright(self, stored: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """The stored image [rows, cols, ...] turned upright; a view where that is possible.

        Raises:
            ValueError: the array has not the stored image's rows and columns.
        """
        _demand_shape(stored, (self.rows, self.columns))
        return self._flipped(stored.swapaxes(0, 1) if self.transposed else stored)

    def to_source(self, upright: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """The upright image [rows, cols, ...] as the source stores it: undoes `to_upright`.

        Raises:
            ValueError: the array has not the upright image's rows and columns.
        """
        _demand_shape(upright, self.upright_shape)
        turned = self._flipped(upright)
        return turned.swapaxes(0, 1) if self.transposed else turned

    def point_to_source(self, row: float, col: float) -> tuple[float, float]:
        """Where the upright image's point (row, col) lies in the stored image, (row, col)."""
        row, col = self._mirrored(row, col)
        return (col, row) if self.transposed else (row, col)

    def point_to_upright(self, row: float, col: float) -> tuple[float, float]:
        """Where the stored image's point (row, col) lies in the upright image, (row, col)."""
        return self._mirrored(col, row) if self.transposed else self._mirrored(row, col)

    def _flipped(self, image: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        return image[:: -1 if self.flipped_rows else 1, :: -1 if self.flipped_columns else 1]

    def _mirrored(self, row: float, col: float) -> tuple[float, float]:
        """(row, col) of the upright image's frame, flipped; its own inverse."""
        rows, columns = self.upright_shape
        return (
            rows - row if self.flipped_rows else row,
            columns - col if self.flipped_columns else col,
        )


def of(ds: Dataset, rows: int, columns: int) -> Orientation:
    """The turn that PatientOrientation asks for; none where it is absent, invalid or not frontal.

    Its first value is the direction of the rows (towards the last column), its second that of
    the columns (towards the last row); PS3.3 C.7.6.1.1.1.
    """
    along_row, along_column = _principal_directions(attributes.codes(ds, "PatientOrientation"))
    match (along_row in ("L", "R"), along_column in ("L", "R")):
        case (True, False) if along_column in ("H", "F"):
            transposed, head_foot, right_left = False, along_column, along_row
        case (False, True) if along_row in ("H", "F"):
            transposed, head_foot, right_left = True, along_row, along_column
        case _:
            return Orientation(rows=rows, columns=columns)
    return Orientation(
        rows=rows,
        columns=columns,
        transposed=transposed,
        flipped_rows=head_foot == "H",
        flipped_columns=right_left == "R",
    )


def stated(ds: Dataset) -> tuple[str, ...]:
    """PatientOrientation where it is two directions along different axes; empty otherwise."""
    values = attributes.codes(ds, "PatientOrientation")
    along_row, along_column = _principal_directions(values)
    return values if along_row and along_column not in (along_row, _OPPOSITE[along_row]) else ()


def upright(ds: Dataset) -> tuple[str, ...]:
    """Patient Orientation of the image that `of` turns upright; empty where none is stated."""
    said = stated(ds)
    frontal = all(direction[0] in "LRHF" for direction in said)
    return ("L", "F") if said and frontal else said


def _principal_directions(values: tuple[str, ...]) -> tuple[str, str]:
    """First letters of the two values ("" for both where either is invalid).

    The letters of one value are ordered by their share of the direction, so the first is the
    axis that the row or column mainly follows (PS3.3 C.7.6.1.1.1).
    """
    if len(values) != 2 or not all(_is_direction(value) for value in values):
        return "", ""
    return values[0][0], values[1][0]


def _is_direction(value: str) -> bool:
    """Whether every letter is a direction and no two share an axis."""
    axes = {frozenset((letter, _OPPOSITE.get(letter, "?"))) for letter in value}
    return 0 < len(value) == len(axes) and all(letter in _OPPOSITE for letter in value)


def _demand_shape(image: npt.NDArray[_Scalar], shape: tuple[int, int]) -> None:
    if image.shape[:2] != shape:
        raise ValueError(f"image is {image.shape[:2]}, not {shape} rows and columns")
