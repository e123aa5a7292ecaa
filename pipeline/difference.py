"""The discrepancy between a film and its normal counterpart, as a map."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from pipeline import anatomy
from pipeline.anatomy import Mask
from pipeline.types import Image

_COMPLETION = 0.6


def magnitude(difference: Image, blur_px: float) -> Image:
    """|d| smoothed by a Gaussian of `blur_px`: >= 0, in the film's units of 0 black .. 1 white."""
    smooth = ndimage.gaussian_filter(np.abs(difference), blur_px)
    return np.asarray(smooth, np.float32)


def weighted(change: Image, gates: Sequence[Image]) -> Image:
    """(|d| m_1 .. m_n)^(1 / (n + 1)): the geometric mean of how much an edit changes and of how
    surely each gate wants it.

    `change` is `magnitude`'s, the gates are in 0 .. 1. Measured against each alone in
    docs/evaluation.md: |d| of a faint haze is small, a gate says nothing of how much.
    """
    product = np.prod([change, *gates], axis=0)
    return np.asarray(product ** (1 / (len(gates) + 1)), np.float32)


def held(maps: Image, lungs: Mask) -> Image:
    """Maps [draws, side, side] in and around the lungs; outside their hull they fade to 0.

    What is sought is in the chest. Measured in docs/decisions/0004-what-the-map-is.md.
    """
    return maps * anatomy.hull(lungs)


def completed(places: Image, change: Image, threshold: float) -> Image:
    """A + k (T - max A)+ |d|: a map of which no place reaches the threshold T ranks by all change.

    `places` is the map A, `change` what `magnitude` makes of all that the counterpart changes, held
    to the lungs: disease that covers them is in it and has no place. As k is below 1 and |d| at
    most 1, the sum stays below T where A does: no region comes or goes by it, and a map that has
    one stays as it is. Measured in docs/decisions/0013-a-map-without-a-region.md.
    """
    short = max(0.0, threshold - float(places.max()))
    return np.asarray(places + _COMPLETION * short * change.clip(0, 1), np.float32)


def mean_and_sd(draws: Image) -> tuple[Image, Image]:
    """Mean and SD over the first axis of [draws, rows, cols]; the SD of one draw is 0."""
    return draws.mean(0, dtype=np.float32), draws.std(0, dtype=np.float32)
