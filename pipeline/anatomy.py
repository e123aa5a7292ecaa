"""Where the lungs are, and a frame in which the lungs of all films lie at the same place."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull

from pipeline.types import Image

Mask = npt.NDArray[np.bool_]
"""[side, side] of the model grid; the patient's right is at the image's left."""

_LEAST_LUNG_PX = 400  # below this a mask is not a pair of lungs
_HULL_MARGIN_PX, _HULL_EDGE_PX = 6.0, 8.0


def tidy(mask: Mask) -> Mask:
    """The two largest connected parts of a mask, without holes."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    keep = np.argsort(sizes)[::-1][:2] + 1
    return np.asarray(ndimage.binary_fill_holes(np.isin(labels, keep)))


def usable(lungs: Mask) -> bool:
    """Whether the mask looks like a pair of lungs, one on each side."""
    half = lungs.shape[1] // 2
    return min(int(lungs[:, :half].sum()), int(lungs[:, half:].sum())) > _LEAST_LUNG_PX


def extent(lungs: Mask) -> tuple[tuple[int, int], tuple[int, int]]:
    """((row0, row1), (col0, col1)) of the box around the lungs, ends excluded."""
    rows, cols = np.nonzero(lungs.any(1))[0], np.nonzero(lungs.any(0))[0]
    return (int(rows[0]), int(rows[-1]) + 1), (int(cols[0]), int(cols[-1]) + 1)


def hull(lungs: Mask) -> Image:
    """[side, side] in 0 .. 1: 1 in the convex hull of both lungs, falling to 0 a little outside.

    The hull holds what a lesion can hide of a lung from the segmenter, the mediastinum and the
    bases; letters, arms and the film's border are outside. Ones where there is no pair of lungs.
    """
    if not usable(lungs):
        return np.ones(lungs.shape, np.float32)
    facets = ConvexHull(np.argwhere(lungs)).equations  # normal and offset, > 0 outside
    row, col = np.indices(lungs.shape, np.float32)
    outside_px = np.full(lungs.shape, -np.inf, np.float32)
    for down, right, offset in facets.astype(np.float32):
        np.maximum(outside_px, down * row + right * col + offset, out=outside_px)
    return (1 - (outside_px - _HULL_MARGIN_PX) / _HULL_EDGE_PX).clip(0, 1)


def move(plane: Image, lungs: Mask, place: Mask) -> Image:
    """The plane moved and scaled so that the box around `lungs` meets the box around `place`."""
    (r0, r1), (c0, c1) = extent(place)
    (from_r0, from_r1), (from_c0, from_c1) = extent(lungs)
    scale = np.array([(from_r1 - from_r0) / (r1 - r0), (from_c1 - from_c0) / (c1 - c0)])
    offset = np.array([from_r0, from_c0]) - scale * np.array([r0, c0])
    moved = ndimage.affine_transform(plane, scale, offset, order=1, mode="nearest")
    return np.asarray(moved, np.float32)


def typical_place(masks: npt.NDArray[np.bool_]) -> Mask:
    """[n, side, side] lung masks -> [side, side], the rectangle that their lungs usually fill."""
    corners = np.array([np.ravel(extent(mask)) for mask in masks])
    row0, row1, col0, col1 = np.median(corners, axis=0).astype(int)
    place = np.zeros(masks.shape[1:], bool)
    place[row0:row1, col0:col1] = True
    return place
