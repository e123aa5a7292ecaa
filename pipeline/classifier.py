"""A judge of films that no part of the edit has learnt from: normal or not, and from which source.

It scores edits (does the counterpart look normal to another network?), gives the features that
FID and KID are measured in, and the saliency map that ours is compared with.
"""

import itertools
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from pipeline import fit
from pipeline.errors import ModelError

FEATURES = 160
SOURCES = ("covid19-radiography-db", "kermany-guangzhou-paediatric", "nih-chestxray14", "tbx11k")
"""What the source head tells apart; a film of any other source has no source to learn."""

SIDE = 112
"""Films are halved before they are judged: speed, and no cue from how sharp a source is."""

_WIDTHS = (16, 32, 64, FEATURES)
_GROUPS = 8


class Classifier(nn.Module):
    """[n, 1, h, w] films in -1 black .. 1 white -> logits; a small residual network (1512.03385).

    Films are standardised first: overall contrast and brightness do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, _WIDTHS[0], 5, stride=2, padding=2)
        self.stages = nn.ModuleList(
            nn.Sequential(_Residual(i, o), _Residual(o, o)) for i, o in itertools.pairwise(_WIDTHS)
        )
        self.abnormal = nn.Linear(FEATURES, 1)
        self.source = nn.Linear(FEATURES, len(SOURCES))

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        """The last stage's [n, FEATURES, SIDE / 16, SIDE / 16], >= 0."""
        x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-6)
        h = self.stem(x)
        for stage in self.stages:
            h = stage(functional.avg_pool2d(h, 2))
        return functional.relu(h)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[n, FEATURES], the activations' mean over the film."""
        return self.activations(x).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of "abnormal", [n]."""
        logits: torch.Tensor = self.abnormal(self.features(x))
        return logits[:, 0]

    def saliency(self, x: torch.Tensor) -> torch.Tensor:
        """Grad-CAM of "abnormal" (1610.02391, eq. 1 and 2), [n, h, w], >= 0.

        With a mean and one linear layer behind the activations the gradient's mean is that layer's
        weight, so that no backward pass is needed.
        """
        weighted = self.activations(x) * self.abnormal.weight[0, :, None, None]
        plane = functional.relu(weighted.sum(1, keepdim=True))
        return functional.interpolate(plane, x.shape[-2:], mode="bilinear")[:, 0]


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.GroupNorm(_GROUPS, channels_out),
            nn.SiLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.GroupNorm(_GROUPS, channels_out),
        )
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, channels_in, h, w] -> [n, channels_out, h, w]."""
        out: torch.Tensor = functional.silu(self.body(x) + self.shortcut(x))
        return out


def load(path: Path) -> Classifier:
    """The classifier kept at `path`.

    Raises:
        ModelError: it is no safetensors file of this form, or holds what is no number.
    """
    model = Classifier()
    try:
        model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    except (OSError, RuntimeError, ValueError, SafetensorError) as fault:
        raise ModelError(f"{path}: no classifier of this form: {fault}") from fault
    fit.demand_finite(path, model.state_dict())
    return model.eval()
