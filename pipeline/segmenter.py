"""A small U-Net that says which pixels of the model grid are what it was taught: lung, lesion."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

SIDE = 112
"""Films are halved before they are segmented: an outline needs no more."""

WIDTHS = (16, 32, 64, 96)
"""Channels at SIDE, and at each half of it."""
_GROUPS = 8


class Segmenter(nn.Module):
    """[n, 1, h, w] in -1 black .. 1 white -> logits, same size (U-Net, 1505.04597)."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        ins = (1, *widths[:-1])
        self.down = nn.ModuleList([_block(i, o) for i, o in zip(ins, widths, strict=True)])
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList([_block(low + high, high) for low, high in pairs])
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits; see the class."""
        size = x.shape[-2:]
        h = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        skips: list[torch.Tensor] = []
        for index, block in enumerate(self.down):
            h = block(h if index == 0 else functional.max_pool2d(h, 2))
            skips.append(h)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            h = block(torch.cat([functional.interpolate(h, scale_factor=2.0), skip], dim=1))
        logits: torch.Tensor = self.head(h)
        return functional.interpolate(logits, size, mode="bilinear")


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.GroupNorm(_GROUPS, channels_out),
        nn.SiLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.GroupNorm(_GROUPS, channels_out),
        nn.SiLU(),
    )
