"""Inception v3 (1512.00567) as torchvision names its weights, for whoever has them in a file.

FID and KID in the literature are measured in its features. No weights come with this project, and
none are fetched.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from pipeline.errors import ModelError

FEATURES = 2048
_SIDE = 299

_Kernel = int | tuple[int, int]


class _Conv(nn.Module):
    """A convolution that keeps the size (or halves it), batch norm, ReLU."""

    def __init__(self, i: int, o: int, kernel: _Kernel, stride: int = 1, *, same: bool = True):
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(i, o, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(o, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return functional.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Branches side by side; `ends` says which convolutions a branch runs through.

    A branch that ends in two convolutions at once is written with both names, parted by a bar.
    """

    def __init__(self, convs: dict[str, _Conv], ends: tuple[str, ...], pool: str = "") -> None:
        super().__init__()
        for name, conv in convs.items():
            self.add_module(name, conv)
        self._ends, self._pool = ends, pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The branches' outputs, one after another."""
        outs: list[torch.Tensor] = []
        for branch in self._ends:
            h = x
            *through, last = branch.split()
            for name in through:
                h = self.get_submodule(name)(h)
            outs += [self.get_submodule(name)(h) for name in last.split("|")]
        if self._pool == "max":
            outs.append(functional.max_pool2d(x, 3, 2))
        elif self._pool:
            outs.append(self.get_submodule(self._pool)(functional.avg_pool2d(x, 3, 1, 1)))
        return torch.cat(outs, 1)


def _a(i: int, pooled: int) -> _Mixed:
    convs = {
        "branch1x1": _Conv(i, 64, 1),
        "branch5x5_1": _Conv(i, 48, 1),
        "branch5x5_2": _Conv(48, 64, 5),
        "branch3x3dbl_1": _Conv(i, 64, 1),
        "branch3x3dbl_2": _Conv(64, 96, 3),
        "branch3x3dbl_3": _Conv(96, 96, 3),
        "branch_pool": _Conv(i, pooled, 1),
    }
    ends = (
        "branch1x1",
        "branch5x5_1 branch5x5_2",
        "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    )
    return _Mixed(convs, ends, "branch_pool")


def _b(i: int) -> _Mixed:
    convs = {
        "branch3x3": _Conv(i, 384, 3, 2, same=False),
        "branch3x3dbl_1": _Conv(i, 64, 1),
        "branch3x3dbl_2": _Conv(64, 96, 3),
        "branch3x3dbl_3": _Conv(96, 96, 3, 2, same=False),
    }
    return _Mixed(convs, ("branch3x3", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"), "max")


def _c(i: int, inner: int) -> _Mixed:
    row, column = (1, 7), (7, 1)
    convs = {
        "branch1x1": _Conv(i, 192, 1),
        "branch7x7_1": _Conv(i, inner, 1),
        "branch7x7_2": _Conv(inner, inner, row),
        "branch7x7_3": _Conv(inner, 192, column),
        "branch7x7dbl_1": _Conv(i, inner, 1),
        "branch7x7dbl_2": _Conv(inner, inner, column),
        "branch7x7dbl_3": _Conv(inner, inner, row),
        "branch7x7dbl_4": _Conv(inner, inner, column),
        "branch7x7dbl_5": _Conv(inner, 192, row),
        "branch_pool": _Conv(i, 192, 1),
    }
    double = " ".join(f"branch7x7dbl_{n}" for n in range(1, 6))
    ends = ("branch1x1", "branch7x7_1 branch7x7_2 branch7x7_3", double)
    return _Mixed(convs, ends, "branch_pool")


def _d(i: int) -> _Mixed:
    convs = {
        "branch3x3_1": _Conv(i, 192, 1),
        "branch3x3_2": _Conv(192, 320, 3, 2, same=False),
        "branch7x7x3_1": _Conv(i, 192, 1),
        "branch7x7x3_2": _Conv(192, 192, (1, 7)),
        "branch7x7x3_3": _Conv(192, 192, (7, 1)),
        "branch7x7x3_4": _Conv(192, 192, 3, 2, same=False),
    }
    long = " ".join(f"branch7x7x3_{n}" for n in range(1, 5))
    return _Mixed(convs, ("branch3x3_1 branch3x3_2", long), "max")


def _e(i: int) -> _Mixed:
    convs = {
        "branch1x1": _Conv(i, 320, 1),
        "branch3x3_1": _Conv(i, 384, 1),
        "branch3x3_2a": _Conv(384, 384, (1, 3)),
        "branch3x3_2b": _Conv(384, 384, (3, 1)),
        "branch3x3dbl_1": _Conv(i, 448, 1),
        "branch3x3dbl_2": _Conv(448, 384, 3),
        "branch3x3dbl_3a": _Conv(384, 384, (1, 3)),
        "branch3x3dbl_3b": _Conv(384, 384, (3, 1)),
        "branch_pool": _Conv(i, 192, 1),
    }
    ends = (
        "branch1x1",
        "branch3x3_1 branch3x3_2a|branch3x3_2b",
        "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a|branch3x3dbl_3b",
    )
    return _Mixed(convs, ends, "branch_pool")


class Inception(nn.Module):
    """Films [n, 1, h, w] in -1 .. 1 -> [n, 2048], the last pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2, same=False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a, self.Mixed_6b = _b(288), _c(768, 128)
        self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(768, 160), _c(768, 160), _c(768, 192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = _d(768), _e(1280), _e(2048)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = functional.interpolate(x, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        x = x.expand(-1, 3, -1, -1)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean((2, 3))


def load(path: Path) -> Inception:
    """The network with the weights at `path`: safetensors, names as in torchvision's inception_v3.

    What is only needed to classify (AuxLogits, fc) is passed over.

    Raises:
        ModelError: it is no such file; pickled weights are not read.
    """
    model = Inception()
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as fault:
        raise ModelError(f"{path}: no safetensors file: {fault}") from fault
    kept = {k: v.float() for k, v in tensors.items() if not k.startswith(("AuxLogits.", "fc."))}
    try:
        model.load_state_dict(kept)
    except RuntimeError as fault:
        raise ModelError(f"{path}: not torchvision's inception_v3: {fault}") from fault
    return model.eval()
