"""Lesions by absorption: a family of which no edit is taught, so that it can be judged by them.

Training pastes are blends towards the brightness of soft tissue. Here light is absorbed instead:
film' = 1 - (1 - film) exp(-thickness), a Beer-Lambert law, with a thickness that is fractal noise
cut at a level, so that shape, edge and texture are of another family too. The independent
classifier learns from them what a lesion is; the oracle measures the edit by them, since their true
normal counterpart is known.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipeline.anatomy import Mask
from pipeline.types import Image

_OCTAVES = (32.0, 16.0, 8.0, 4.0)  # wavelengths in grid pixels
_ROUGHNESS = 0.55  # how much each octave adds, of the one before


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """`film` with the lesion, `normal` without, both 0 .. 1; `mask` where they differ visibly."""

    film: Image
    normal: Image
    mask: Mask


def lesion(rng: np.random.Generator, normal: Image, lungs: Mask, share: float) -> Known:
    """An absorbing cloud that covers about `share` of the lungs' pixels.

    Args:
        rng: where all chance comes from.
        normal: [side, side] float32, 0 black .. 1 white.
        lungs: the film's lungs, not empty.
        share: of the lungs' area, 0 .. 1.
    """
    rows, cols = np.nonzero(lungs)
    seed = int(rng.integers(len(rows)))
    distance = np.hypot(*(np.indices(normal.shape) - np.array([[[rows[seed]]], [[cols[seed]]]])))
    reach = np.sqrt(share * lungs.sum() / np.pi)
    field = _fractal(rng, normal.shape) - 1.5 * distance / reach
    level = np.quantile(field[lungs], 1 - share)
    thickness = np.clip(field - level, 0, None) * lungs
    thickness = ndimage.gaussian_filter(thickness, 1.0)
    thickness *= rng.uniform(0.35, 0.9) / max(
        float(np.quantile(thickness[thickness > 0], 0.9)), 1e-6
    )
    film = 1 - (1 - normal) * np.exp(-np.minimum(thickness, 1.5))
    return Known(
        film=np.asarray(film, np.float32),
        normal=normal,
        mask=np.asarray(film - normal > 0.03),
    )


def _fractal(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    """Noise of several octaves, mean 0 and SD 1."""
    whole = np.zeros(shape)
    for place, wavelength in enumerate(_OCTAVES):
        octave = ndimage.gaussian_filter(rng.normal(0, 1, shape), wavelength / 4, mode="wrap")
        whole += _ROUGHNESS**place * octave / octave.std()
    return np.asarray((whole - whole.mean()) / whole.std(), np.float32)
