"""Whether a film has a finding at all, read from what a U-Net makes of its lungs.

A linear classifier probe (Alain & Bengio, 1610.01644): each channel of the middle and upper blocks,
at the first step of an edit, is pooled over the hull of the lungs, and one weight a number says how
much it speaks for a finding. The map says where, and its maximum is what one place says; disease
that covers whole lungs, or a little everywhere, has no such place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.types import Image

FILE = "probe.safetensors"
_HIGHEST = 0.1  # of the hull's cells: what a channel says where it says most
_OF_A_CHANNEL = 3  # mean, highest, SD
_INSIDE = 0.5  # how much of a cell lies in the hull

Traits = npt.NDArray[np.float32]
"""[d]: of every channel the mean over the hull, the mean of its highest tenth, and the SD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """`weights` [d] and `bias` make of traits the log odds of a finding, within one source."""

    weights: Traits
    bias: float

    def log_odds(self, traits: Traits) -> float:
        """Of a finding."""
        return float(self.weights @ traits) + self.bias


def reading(made: Probe | None, traits: Traits | None) -> float:
    """The log odds of a finding; 0, which says nothing, without a probe or without traits."""
    return 0.0 if made is None or traits is None else made.log_odds(traits)


def pooled(states: Sequence[torch.Tensor], hull: Image) -> Traits:
    """The traits of one film.

    Args:
        states: [channels, h, w] of each block, as one frame sees the film.
        hull: [side, side] in 0 .. 1, in the same frame.
    """
    whole = torch.from_numpy(np.ascontiguousarray(hull, np.float32))[None, None]
    found = [_of_a_block(state.float().cpu(), whole) for state in states]
    return np.asarray(torch.cat(found).numpy(), np.float32)


def _of_a_block(state: torch.Tensor, hull: torch.Tensor) -> torch.Tensor:
    """[3 channels] of [channels, h, w]."""
    _, rows, cols = state.shape
    share = functional.adaptive_avg_pool2d(hull, (rows, cols))[0, 0]
    weight = share / share.sum().clamp(min=1e-6)
    mean = (state * weight).sum((1, 2))
    sd = ((state - mean[:, None, None]) ** 2 * weight).sum((1, 2)).sqrt()
    cells = state.flatten(1)[:, (share.flatten() >= min(_INSIDE, float(share.max())))]
    few = max(1, int(cells.shape[1] * _HIGHEST))
    return torch.cat([mean, cells.topk(few, 1).values.mean(1), sd])


def load(folder: Path, channels: int) -> Probe | None:
    """The probe kept in a model folder, None where there is none; `channels` are those of
    its U-Net's middle and upper blocks, all together.

    Raises:
        ModelError: the file is not of this form, or reads another U-Net.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        parts = load_file(path)
        weights, bias = parts["weights"].astype(np.float32), float(parts["bias"][0])
    except (OSError, LookupError, ValueError, SafetensorError) as fault:
        raise ModelError(f"{path}: no probe of this form: {fault}") from fault
    expected = _OF_A_CHANNEL * channels
    if weights.shape != (expected,) or not np.isfinite([*weights, bias]).all():
        raise ModelError(
            f"{path}: {expected} weights that are numbers were expected, found {weights.shape}: "
            "calibrate the model again"
        )
    return Probe(weights=weights, bias=bias)


def save(made: Probe, folder: Path) -> None:
    """The model folder holds the probe."""
    parts = {"weights": made.weights, "bias": np.array([made.bias], np.float32)}
    save_file(parts, folder / FILE)
    (folder / FILE).chmod(0o644)  # safetensors are written for their owner only
