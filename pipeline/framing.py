"""The frames in which the draws of one explanation see a film: the whole of it, and its lungs.

A draw that sees the lungs larger sees them finer, and where they usually lie; the two agree on
what is there and differ in what is not (docs/decisions/0004-what-the-map-is.md).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipeline import anatomy
from pipeline.anatomy import Mask
from pipeline.types import Image

_FILL = 0.9  # of the frame's side, by the longer side of the box around the lungs
_SMALLEST = 0.75  # of the film's side: beyond it nothing was learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A square window of a square plane: its middle in pixels, its side as part of the plane's."""

    row: float
    col: float
    size: float

    def see(self, plane: Image) -> Image:
        """What is in the window, at the plane's own size; beyond the plane its edge goes on."""
        middle = (plane.shape[0] - 1) / 2
        offset = np.array([self.row, self.col]) - self.size * middle
        seen = ndimage.affine_transform(plane, [self.size] * 2, offset, order=1, mode="nearest")
        return np.asarray(seen, np.float32)

    def back(self, seen: Image) -> Image:
        """What was made of the window, at its place in the plane; 0 outside the window."""
        middle = (seen.shape[0] - 1) / 2
        offset = middle - np.array([self.row, self.col]) / self.size
        plane = ndimage.affine_transform(
            seen, [1 / self.size] * 2, offset, order=1, mode="constant", cval=0.0
        )
        return np.asarray(plane, np.float32)


def whole(side: int) -> Frame:
    """The whole plane."""
    return Frame(row=(side - 1) / 2, col=(side - 1) / 2, size=1.0)


def around(lungs: Mask) -> Frame:
    """The box around the lungs and a tenth more; the whole plane where no pair of them is."""
    side = lungs.shape[0]
    if not anatomy.usable(lungs):
        return whole(side)
    (row0, row1), (col0, col1) = anatomy.extent(lungs)
    size = max(row1 - row0, col1 - col0) / (_FILL * side)
    return Frame(
        row=(row0 + row1 - 1) / 2,
        col=(col0 + col1 - 1) / 2,
        size=min(max(size, _SMALLEST), 1.0),
    )


def frames(lungs: Mask, draws: int) -> list[Frame]:
    """One a draw: the whole film and the lungs in turn."""
    kinds = (whole(lungs.shape[0]), around(lungs))
    return [kinds[draw % 2] for draw in range(draws)]
