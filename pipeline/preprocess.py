"""From a radiograph to the model grid, and the exact way back."""

from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from pipeline.types import Image, Radiograph

GRID = 224
"""Side of the embedded model's grid. Half of its training films are 224 px at the source: at this
size no film is enlarged, so that sharpness does not tell the sources apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letterbox:
    """Where a film lies in the square: `top`, `left`, `height`, `width` in grid pixels.

    `rows` and `cols` are the film's own; the rest of the square is black.
    """

    side: int
    top: int
    left: int
    height: int
    width: int
    rows: int
    cols: int

    def to_film(self, plane: Image) -> Image:
        """A [side, side] plane of the grid as [rows, cols] of the film, bicubic."""
        inside = plane[self.top : self.top + self.height, self.left : self.left + self.width]
        return _resize(inside, self.rows, self.cols, Pillow.Resampling.BICUBIC)

    def point_to_film(self, row: float, col: float) -> tuple[float, float]:
        """A point of the grid (0.0 at the first pixel's outer edge) in the film's pixels."""
        return (
            min(max((row - self.top) * self.rows / self.height, 0.0), float(self.rows)),
            min(max((col - self.left) * self.cols / self.width, 0.0), float(self.cols)),
        )

    @property
    def film_pixels_per_grid_pixel(self) -> float:
        """How many pixels of the film one pixel of the grid covers."""
        return self.rows * self.cols / (self.height * self.width)


def letterbox(radiograph: Radiograph, side: int = GRID) -> Letterbox:
    """Where the film lies when its true shape is fitted into the square, centred.

    Pixels that are not square (spacing_mm) are made so.
    """
    rows, cols = radiograph.pixels.shape
    return fitted(rows, cols, radiograph.spacing_mm or (1.0, 1.0), side)


def fitted(
    rows: int, cols: int, spacing: tuple[float, float] = (1.0, 1.0), side: int = GRID
) -> Letterbox:
    """`letterbox` of a film of so many pixels; `spacing` is between rows and between columns."""
    row_mm, col_mm = spacing
    tall, wide = rows * row_mm, cols * col_mm
    height = max(1, round(side * min(1.0, tall / wide)))
    width = max(1, round(side * min(1.0, wide / tall)))
    return Letterbox(
        side=side,
        top=(side - height) // 2,
        left=(side - width) // 2,
        height=height,
        width=width,
        rows=rows,
        cols=cols,
    )


def to_grid(radiograph: Radiograph, box: Letterbox) -> Image:
    """The film on the grid: [side, side] float32, 0 black .. 1 white, black around it."""
    plane = np.zeros((box.side, box.side), np.float32)
    small = _resize(radiograph.pixels, box.height, box.width, Pillow.Resampling.LANCZOS)
    plane[box.top : box.top + box.height, box.left : box.left + box.width] = small.clip(0, 1)
    return plane


def _resize(plane: Image, rows: int, cols: int, how: Pillow.Resampling) -> Image:
    picture = Pillow.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.array(picture.resize((cols, rows), how), np.float32)
