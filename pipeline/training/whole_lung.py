"""Trains the whole-lung adapter: low-rank changes of the U-Net (LoRA, 2106.09685).

The U-Net was taught by pasted lesions, which are local, and takes back nothing that lies over a
whole lung. What it points at by them is not to suffer by another lesson: so its own weights stay,
and the adapter is switched on for the last passes of a counterpart alone
(docs/decisions/0010-whole-lungs.md).
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import ModelError
from pipeline.training import diffusion
from pipeline.training.diffusion import Task
from pipeline.training.pairs import Counts
from pipeline.training.pools import Pool
from pipeline.training.session import Progress, Recipe

_RANK = 4
_TIME = "time_emb"  # what t says is what it said before

_TASKS: tuple[Task, ...] = (
    ("estimated", 0.46, "restore"),
    ("diffuse", 0.14, "restore"),
    ("pasted", 0.10, "restore"),
    ("healthy", 0.18, "keep"),
    ("labelled", 0.12, "tell"),
)


def counts(pairs: int) -> Counts:
    """A pool of so many, in the shares that its tasks ask for."""
    return Counts(
        pasted=round(pairs * 0.14),
        boxed=0,
        healthy=round(pairs * 0.18),
        abnormal=0,
        labelled=round(pairs * 0.14),
        diffuse=round(pairs * 0.22),
        estimated=round(pairs * 0.32),
    )


def train(
    unet: UNet2DConditionModel,
    pool: Pool,
    embeddings: torch.Tensor,
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    start: Path | None = None,
) -> UNet2DConditionModel:
    """`unet` with an adapter that was trained on the pool; `embeddings` as in diffusion.train.

    A new run begins with the adapter in the file `start`, where one is given.

    Raises:
        ModelError: `start` is no adapter of this U-Net.
    """
    torch.manual_seed(recipe.seed)
    adapt(unet)
    if start is not None:
        _begin_with(unet, start)
    return diffusion.learn(unet, _TASKS, pool, embeddings, recipe, folder, progress)


def adapt(unet: UNet2DConditionModel) -> None:
    """The U-Net gets an adapter that changes nothing yet; nothing else of it learns any more."""
    unet.requires_grad_(False)
    layers = [
        name
        for name, layer in unet.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and _TIME not in name
    ]
    unet.add_adapter(
        LoraConfig(r=_RANK, lora_alpha=_RANK, init_lora_weights="gaussian", target_modules=layers)
    )


def _begin_with(unet: UNet2DConditionModel, start: Path) -> None:
    try:
        adapter = {name: part.float() for name, part in load_file(start).items()}
        if adapter.keys() != get_peft_model_state_dict(unet).keys():
            raise ModelError(f"{start}: is the adapter of another U-Net")
        set_peft_model_state_dict(unet, adapter)
    except (OSError, SafetensorError, RuntimeError) as fault:
        raise ModelError(f"{start}: is no adapter of this U-Net: {fault}") from fault


def save(unet: UNet2DConditionModel, path: Path) -> None:
    """The adapter alone, in fp16, as diffusers reads it."""
    adapter = get_peft_model_state_dict(unet)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: part.half().contiguous() for name, part in adapter.items()}, path)
    path.chmod(0o644)
