"""The parts of a map above its threshold, with their outlines."""

import contourpy
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.preprocess import Letterbox
from pipeline.types import Image, Region

LEAST_AREA_PX = 12
"""In grid pixels; smaller than a 4 px nodule's disc, larger than a ripple of the decoder."""


def find(plane: Image, threshold: float, box: Letterbox) -> tuple[Region, ...]:
    """Connected regions of a grid map at or above `threshold`, highest peak first.

    A region is all that its outline holds, holes too: area, outline and what is drawn of it agree.
    Outlines and areas are in the film's pixels (types.Region).
    """
    inside = np.zeros_like(plane)
    rows = slice(box.top, box.top + box.height)
    cols = slice(box.left, box.left + box.width)
    inside[rows, cols] = plane[rows, cols]
    found = [_region(inside, part, threshold, box) for part in parts(inside, threshold)]
    return tuple(sorted(found, key=lambda region: -region.peak))


def parts(plane: Image, threshold: float) -> list[npt.NDArray[np.bool_]]:
    """The pixels of each region of a grid map, with its holes."""
    labels, count = ndimage.label(ndimage.binary_fill_holes(plane >= threshold))
    found = [labels == n for n in range(1, count + 1)]
    return [part for part in found if int(part.sum()) >= LEAST_AREA_PX]


def _region(plane: Image, part: npt.NDArray[np.bool_], threshold: float, box: Letterbox) -> Region:
    values = plane[part & (plane >= threshold)]
    return Region(
        outline=_outline(plane, part, threshold, box),
        area_px=max(1, round(int(part.sum()) * box.film_pixels_per_grid_pixel)),
        peak=float(values.max()),
        mean=float(values.mean()),
    )


def _outline(
    plane: Image, part: npt.NDArray[np.bool_], threshold: float, box: Letterbox
) -> tuple[tuple[float, float], ...]:
    """The contour at the threshold, closed, in the film's pixels."""
    other = np.where(ndimage.binary_dilation(part), plane, 0.0)
    other[~part & (other >= threshold)] = 0.0  # a neighbour that touches at a corner only
    other[part] = other[part].clip(threshold)  # a hole
    padded = np.pad(other, 1)  # so that a region at the border is closed too
    # Sample (i, j) is the centre of pixel (i - 1, j - 1): edge coordinate i - 1 + 0.5.
    lines = contourpy.contour_generator(z=padded).lines(threshold * (1 - 1e-6))
    longest = max(lines, key=len)
    points = [box.point_to_film(float(y) - 0.5, float(x) - 0.5) for x, y in longest]
    return (*points[:-1], points[0])
