"""Inception v3 by the names and shapes that torchvision gives its weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import ModelError
from pipeline.evaluation import inception
from pipeline.evaluation.inception import Inception

# Of torchvision's inception_v3: some weights of every kind of block.
SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_4a_3x3.bn.running_var": (192,),
    "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
    "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
    "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6e.branch7x7dbl_4.conv.weight": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
}
_PARAMETERS = 21_785_568
"""Of torchvision's inception_v3, 27,161,264, less its heads (fc 2,049,000, AuxLogits 3,326,696)."""


@pytest.fixture(scope="module")
def model() -> Inception:
    torch.manual_seed(0)
    return Inception().eval()


def test_names_and_shapes_are_torchvisions(model: Inception) -> None:
    state = model.state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert sum(p.numel() for p in model.parameters()) == _PARAMETERS


def test_a_film_of_any_size_has_2048_features(model: Inception) -> None:
    with torch.inference_mode():
        assert model.features(torch.zeros(1, 1, 64, 64)).shape == (1, inception.FEATURES)


def test_weights_come_back_and_the_heads_are_passed_over(model: Inception, tmp_path: Path) -> None:
    path = tmp_path / "inception.safetensors"
    heads = {"fc.weight": torch.zeros(1000, 2048), "AuxLogits.fc.bias": torch.zeros(1000)}
    save_file({**model.state_dict(), **heads}, path)
    again = inception.load(path)
    name = "Mixed_6b.branch7x7_2.conv.weight"
    assert torch.equal(again.state_dict()[name], model.state_dict()[name])


def test_what_is_no_inception_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ModelError, match="no safetensors file"):
        inception.load(tmp_path / "pickle.pth")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not torchvision's inception_v3"):
        inception.load(tmp_path / "other.safetensors")
