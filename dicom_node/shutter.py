"""Which pixels belong to the picture: not padding, and not behind a display shutter."""

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node import attributes
from dicom_node.pixels import Stored

Mask = npt.NDArray[np.bool_]
"""[rows, cols], True where a pixel belongs to the picture."""

_LEAST_SHARE = 0.05
"""A shutter or padding that leaves less of the film than this is taken for a mistake."""

_EDGES = tuple(
    f"Shutter{edge}Edge"
    for edge in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
)
_OF_SHAPES = {
    "RECTANGULAR": _EDGES,
    "CIRCULAR": ("CenterOfCircularShutter", "RadiusOfCircularShutter"),
    "POLYGONAL": ("VerticesOfThePolygonalShutter",),
}
"""What each shape needs (PS3.3 table C.7-17)."""


def picture_mask(ds: Dataset, stored: Stored, aspect: float) -> Mask:
    """True where a stored pixel is neither padding nor shuttered; all True if hardly any is.

    `aspect` is the distance between rows over that between columns.
    """
    shape = (stored.shape[0], stored.shape[1])
    mask = _not_padding(ds, stored) & _open(ds, shape, aspect)
    return mask if mask.mean() >= _LEAST_SHARE else np.ones(shape, bool)


def stated(ds: Dataset, shape: tuple[int, int], aspect: float) -> dict[str, list[str] | list[int]]:
    """The Display Shutter (PS3.3 C.7.6.11) by keyword: its complete shapes, with what they need.

    Empty where there is none, or hardly anything of the film of `shape` would be left.
    """
    needed = {
        name: {keyword: attributes.numbers(ds, keyword) for keyword in _OF_SHAPES[name]}
        for name in dict.fromkeys(attributes.codes(ds, "ShutterShape"))
        if name in _OF_SHAPES
    }
    complete = {name: values for name, values in needed.items() if all(values.values())}
    if not complete or _open(ds, shape, aspect).mean() < _LEAST_SHARE:
        return {}
    found: dict[str, list[str] | list[int]] = {"ShutterShape": list(complete)}
    for values in complete.values():
        found |= {keyword: [round(n) for n in numbers] for keyword, numbers in values.items()}
    return found


def _open(ds: Dataset, shape: tuple[int, int], aspect: float) -> Mask:
    """True where no shutter is."""
    mask = np.ones(shape, bool)
    for name in attributes.codes(ds, "ShutterShape"):
        match name:
            case "RECTANGULAR":
                mask &= _rectangle(ds, shape)
            case "CIRCULAR":
                mask &= _circle(ds, shape, aspect)
            case "POLYGONAL":
                mask &= _polygon(ds, shape)
    return mask


def _not_padding(ds: Dataset, stored: Stored) -> Mask:
    """False from PixelPaddingValue to its range limit, both included (PS3.3 C.7.5.1.1.2)."""
    value = _padding(ds, "PixelPaddingValue", stored)
    if value is None:
        return np.ones(stored.shape, bool)
    limit = _padding(ds, "PixelPaddingRangeLimit", stored)
    low, high = sorted((value, value if limit is None else limit))
    return (stored < low) | (stored > high)


def _padding(ds: Dataset, keyword: str, stored: Stored) -> int | None:
    """A padding attribute as a stored value; senders write signed ones with VR US too."""
    value = attributes.integer(ds, keyword)
    if value is None:
        return None
    return value - 0x10000 if stored.dtype.kind == "i" and value > 0x7FFF else value


def _rectangle(ds: Dataset, shape: tuple[int, int]) -> Mask:
    """Between the four edges, which are numbers of rows and columns from 1, edges included."""
    mask = np.ones(shape, bool)
    left, right, upper, lower = (attributes.number(ds, edge) for edge in _EDGES)
    if left is None or right is None or upper is None or lower is None:
        return mask
    row, col = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    return (row >= upper) & (row <= lower) & (col >= left) & (col <= right)


def _circle(ds: Dataset, shape: tuple[int, int], aspect: float) -> Mask:
    """Within the radius, which counts pixels along a row (PS3.3 C.7.6.11)."""
    centre = attributes.numbers(ds, "CenterOfCircularShutter")
    radius = attributes.number(ds, "RadiusOfCircularShutter")
    if len(centre) != 2 or radius is None:
        return np.ones(shape, bool)
    row, col = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    across: npt.NDArray[np.float64] = ((row - centre[0]) * aspect) ** 2 + (col - centre[1]) ** 2
    return across <= radius**2


def _polygon(ds: Dataset, shape: tuple[int, int]) -> Mask:
    """Inside the vertices (row, column from 1; the last joins the first), by even and odd.

    Each edge toggles its rows from the first pixel right of it on; the parity along a row is
    then the inside. Rows are half open, so that an edge shared by two vertices counts once.
    """
    flat = attributes.numbers(ds, "VerticesOfThePolygonalShutter")
    if len(flat) < 6 or len(flat) % 2:
        return np.ones(shape, bool)
    vertices = np.reshape(flat, (-1, 2)) - 1.0  # now the first pixel's centre is 0
    toggles = np.zeros((shape[0], shape[1] + 1), bool)
    for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        (row_0, col_0), (row_1, col_1) = sorted((tuple(start), tuple(end)))
        rows = np.arange(max(0, np.ceil(row_0)), min(shape[0], np.ceil(row_1)), dtype=int)
        if rows.size:
            crossing = col_0 + (rows - row_0) * (col_1 - col_0) / (row_1 - row_0)
            toggles[rows, np.clip(np.ceil(crossing), 0, shape[1]).astype(int)] ^= True
    return np.logical_xor.accumulate(toggles, axis=1)[:, :-1]
