"""Chests of nobody on the model grid, with their lungs known."""

import numpy as np
import numpy.typing as npt

from pipeline.preprocess import GRID

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TISSUE, LUNG = 0.7, 0.3
ROWS = (40, 180)
RIGHT_COLS, LEFT_COLS = (30, 100), (124, 194)
"""Of the lungs; the patient's right is at the image's left."""


def lungs() -> Mask:
    """[GRID, GRID]: two rectangles."""
    mask = np.zeros((GRID, GRID), bool)
    for first, last in (RIGHT_COLS, LEFT_COLS):
        mask[slice(*ROWS), first:last] = True
    return mask


def flat() -> Plane:
    """Dark lungs in lighter tissue, without any texture."""
    return np.where(lungs(), LUNG, TISSUE).astype(np.float32)


def varied(rng: np.random.Generator) -> Plane:
    """A chest whose lungs, heart and shoulders lie a little differently each time."""
    rows, cols = np.indices((GRID, GRID)) / GRID
    film = np.full((GRID, GRID), 0.6)
    film[rows < 0.18 + rng.normal(0, 0.01)] = 0.1  # air above the shoulders
    for centre in (0.3, 0.7):
        row, col = np.array([0.45, centre]) + rng.normal(0, 0.01, 2)
        film[np.hypot((rows - row) / 0.25, (cols - col) / 0.13) < 1] = 0.2
    row, col = np.array([0.62, 0.55]) + rng.normal(0, 0.01, 2)
    film[np.hypot((rows - row) / 0.12, (cols - col) / 0.15) < 1] = 0.85
    film[rows > 0.8 + rng.normal(0, 0.01)] = 0.9  # below the diaphragm
    return np.asarray(film + rng.normal(0, 0.02, film.shape), np.float32).clip(0, 1)
