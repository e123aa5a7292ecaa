"""The second gate: where a film shows a finding, read from its pixels in the frame of its lungs.

The denoiser's own gate reads latents, at an eighth of the grid, of the whole film or of the frame.
This one reads the film itself at half of the grid, always in the frame around its lungs, and both
as it is and mirrored; it is taught by the same pastes and boxes, and by films of which no more is
known than their label. The two err in different places, so that what both say is surer. It weighs
the map and holds back no edit (docs/decisions/0007-two-gates.md).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline import framing
from pipeline.anatomy import Mask
from pipeline.framing import Frame
from pipeline.segmenter import SIDE, Segmenter
from pipeline.types import Image

WIDTHS = (16, 32, 64, 96, 128)
"""One level more than other segmenters have: at the lowest a cell sees all of the lungs."""


def build() -> Segmenter:
    """A new, untrained network."""
    return Segmenter(WIDTHS)


def seen(plane: Image, frame: Frame) -> torch.Tensor:
    """[1, 1, SIDE, SIDE] in -1 .. 1: a film of the grid in a frame, as the network takes it."""
    whole = torch.from_numpy(np.ascontiguousarray(frame.see(plane)))[None, None]
    return functional.adaptive_avg_pool2d(whole, SIDE) * 2 - 1


def both_ways(network: Segmenter, x: torch.Tensor) -> torch.Tensor:
    """Probabilities, the shape of films [n, 1, h, w] in -1 .. 1, read as they are and mirrored."""
    logits: torch.Tensor = network(x) + network(x.flip(-1)).flip(-1)
    return logits.div(2).sigmoid()


@dataclass(frozen=True, slots=True)
class LesionGate:
    """Says of each pixel how surely it is part of a finding."""

    network: Segmenter

    @torch.inference_mode()
    def probability(self, plane: Image, lungs: Mask) -> Image:
        """[side, side] in 0 .. 1, 0 outside the frame around the lungs: the mean of the film as it
        is and mirrored. Without a pair of lungs the frame is the whole film.
        """
        frame = framing.around(lungs)
        probability = both_ways(self.network, seen(plane, frame))
        large = functional.interpolate(probability, plane.shape, mode="bilinear")
        return frame.back(large[0, 0].numpy())
