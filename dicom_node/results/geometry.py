"""From the upright film, where maps and regions are found, to the source's stored pixels.

Every object that lies on the source (SR, presentation state, segmentation, parametric map) takes
its points and pixels from here, so that one region is at one place in all of them.
"""

import numpy as np
import numpy.typing as npt

from dicom_node.radiograph import SourceHeader
from pipeline.types import Image, Region

MOST_POINTS = 4096
"""Of one outline: explicit VR FL holds 65,534 bytes, 8,191 points (PS3.5 7.1.2); half is plenty."""

Points = npt.NDArray[np.float32]
"""[n, 2] (column, row) of the stored image; 0.0 is the outer edge of the first pixel, Columns and
Rows those of the last (PS3.3 C.18.6.1.2 for SCOORD, C.10.5.1.2 for graphics in PIXEL units)."""
Mask = npt.NDArray[np.bool_]


def outline(header: SourceHeader, region: Region) -> Points:
    """The region's outline on the stored image, closed."""
    to_source = header.orientation.point_to_source
    points = np.array([to_source(row, col) for row, col in _thinned(region.outline)], np.float32)
    closed: Points = np.clip(points[:, ::-1], 0, np.array([header.columns, header.rows]))
    closed = closed.astype(np.float32)
    closed[-1] = closed[0]
    return closed


def stored(header: SourceHeader, upright: Image) -> Image:
    """The upright image [rows, cols] in the stored image's rows and columns."""
    return np.ascontiguousarray(header.orientation.to_source(upright))


def mask(header: SourceHeader, region: Region) -> Mask:
    """The stored pixels [rows, cols] whose centre lies within the region's outline."""
    return inside(outline(header, region), header.rows, header.columns)


def inside(points: Points, rows: int, columns: int) -> Mask:
    """Pixels whose centre a closed polygon holds, by the even-odd rule.

    A row's pixels right of an odd number of the edges that cross its middle are inside.
    """
    x, y = points[:-1].astype(np.float64).T
    x_next, y_next = points[1:].astype(np.float64).T
    found = np.zeros((rows, columns), np.bool_)
    left, right = _span(x, columns)
    centres = np.arange(left, right) + 0.5
    for row in range(*_span(y, rows)):
        middle = row + 0.5
        crossing = (y <= middle) != (y_next <= middle)
        share = (middle - y[crossing]) / (y_next[crossing] - y[crossing])
        edges = np.sort(x[crossing] + share * (x_next[crossing] - x[crossing]))
        found[row, left:right] = np.searchsorted(edges, centres) % 2 == 1
    return found


def _span(ends: npt.NDArray[np.float64], size: int) -> tuple[int, int]:
    """The first pixel that a polygon may touch along one side, and the one after its last."""
    return max(int(np.floor(ends.min())), 0), min(int(np.ceil(ends.max())), size)


def bits(marked: Mask) -> bytes:
    """One bit a pixel, the first in the lowest, of even length (PS3.5 8.1.2)."""
    packed = np.packbits(marked.ravel(), bitorder="little").tobytes()
    return packed + bytes(len(packed) % 2)


def _thinned(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Every nth point, at most MOST_POINTS with the first repeated as last."""
    step = -(-(len(points) - 1) // (MOST_POINTS - 1))
    return (*points[:-1:step], points[0])
