"""The fixed colour scale of attribution maps: the same value has the same colour on every film."""

import numpy as np
import numpy.typing as npt

from pipeline.types import Image

Pixels = npt.NDArray[np.uint8]
"""[rows, cols, 3] RGB."""

OPACITY = 0.6
"""Of the colour over the film: the anatomy below stays readable."""

_RAMP = np.array(
    [(126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)],
    np.float32,
)
"""The upper three quarters of `plasma` (S. van der Walt and N. Smith, matplotlib, 2015): uniform to
the eye, also to a colour-blind one, and never mistaken for grey anatomy."""


def colours(values: Image, threshold: float, scale_max: float) -> npt.NDArray[np.float32]:
    """RGB 0..255 of map values: the ramp from threshold to scale_max, its ends beyond."""
    span = max(scale_max - threshold, float(np.finfo(np.float32).tiny))
    place = np.clip((values - threshold) / span, 0, 1) * (len(_RAMP) - 1)
    stops = np.arange(len(_RAMP))
    channels = [np.interp(place, stops, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def over(grey: Pixels, values: Image, threshold: float, scale_max: float) -> Pixels:
    """The picture with coloured values over it; untouched where they are below the threshold."""
    mixed = (1 - OPACITY) * grey + OPACITY * colours(values, threshold, scale_max)
    shown = (values >= threshold)[..., None]
    return np.where(shown, np.rint(mixed).astype(np.uint8), grey)


def bar(height: int, width: int) -> Pixels:
    """The scale itself, its top at scale_max, over the mid grey of a film as in the picture."""
    values = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(width, 1)
    return over(np.full((height, width, 3), 128, np.uint8), values, 0.0, 1.0)
