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

    Outlines and areas are in the film's pixels (types.Region).
    """
    inside = np.zeros_like(plane)
    rows = slice(box.top, box.top + box.height)
    cols = slice(box.left, box.left + box.width)
    inside[rows, cols] = plane[rows, cols]
    labels, count = ndimage.label(inside >= threshold)
    found = [_region(inside, labels == n, threshold, box) for n in range(1, count + 1)]
    kept = [region for region in found if region is not None]
    return tuple(sorted(kept, key=lambda region: -region.peak))


def _region(
    plane: Image, part: npt.NDArray[np.bool_], threshold: float, box: Letterbox
) -> Region | None:
    area = int(part.sum())
    if area < LEAST_AREA_PX:
        return None
    values = plane[part]
    return Region(
        outline=_outline(plane, part, threshold, box),
        area_px=max(1, round(_enclosed(part) * box.film_pixels_per_grid_pixel)),
        peak=float(values.max()),
        mean=float(values.mean()),
    )


def _enclosed(part: npt.NDArray[np.bool_]) -> int:
    """Pixels within the outer outline, its holes among them: all that a reader sees enclosed."""
    return int(ndimage.binary_fill_holes(part).sum())


def _outline(
    plane: Image, part: npt.NDArray[np.bool_], threshold: float, box: Letterbox
) -> tuple[tuple[float, float], ...]:
    """The outer contour at the threshold, closed, in the film's pixels; holes are passed over."""
    alone = np.where(ndimage.binary_dilation(part), plane, 0.0)
    other = alone.copy()
    other[~part & (alone >= threshold)] = 0.0  # a neighbour that touches at a corner only
    padded = np.pad(other, 1)  # so that a region at the border is closed too
    # Sample (i, j) is the centre of pixel (i - 1, j - 1): edge coordinate i - 1 + 0.5.
    lines = contourpy.contour_generator(z=padded).lines(threshold * (1 - 1e-6))
    outer = max(lines, key=_area)  # a ragged hole may have more points than what surrounds it
    points = [box.point_to_film(float(y) - 0.5, float(x) - 0.5) for x, y in outer]
    return (*points[:-1], points[0])


def _area(line: npt.NDArray[np.float64]) -> float:
    """Of a closed polygon [n, 2], by the shoelace formula."""
    x, y = line.T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2
