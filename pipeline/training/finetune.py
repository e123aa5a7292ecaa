"""Turns a Stable-Diffusion-class folder that others trained into one that edits chest films.

Two forms: `paired` (InstructPix2Pix, 2211.09800: the first convolution gets as many channels again
for the source, begun at zero, so that the first step computes what the checkpoint did) and `plain`
(text to image, the paper's form; explained by inversion, or in `paper` mode). A text encoder
that the U-Net was not trained with, such as RadBERT, must be trained or its U-Net with it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from torch import nn

from pipeline import digest, settings, weights
from pipeline.errors import ModelError
from pipeline.settings import Settings
from pipeline.training import diffusion, files
from pipeline.training.diffusion import Form, Lessons, Objective
from pipeline.training.pools import Pool
from pipeline.training.session import Progress, Recipe, Session
from pipeline.weights import IMAGE_GATE, LATENT_PRIOR, LESION_GATE, LUNG_SEGMENTER, Networks

_RECORD_EVERY = 10
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a folder is fine-tuned; `lora_rank` 0 trains every weight of the U-Net."""

    form: Form = Form.PAIRED
    train_text: bool = False
    lora_rank: int = 0


class Tuned(nn.Module):
    """The networks that learn, as one: a U-Net and, where the plan says so, its text encoder."""

    def __init__(self, networks: Networks, plan: Plan) -> None:
        super().__init__()
        self.unet = networks.unet
        widened = plan.form is Form.PAIRED and see_source(self.unet, networks.latents)
        networks.text_encoder.requires_grad_(plan.train_text)
        self.text_encoder = networks.text_encoder if plan.train_text else None
        if plan.lora_rank:
            self.unet.requires_grad_(False)
            self.unet.add_adapter(
                LoraConfig(
                    r=plan.lora_rank,
                    lora_alpha=plan.lora_rank,
                    init_lora_weights="gaussian",
                    target_modules=list(_ATTENTION),
                )
            )
            self.unet.conv_in.requires_grad_(widened)  # new channels have no base to adapt


def see_source(unet: Any, latents: int) -> bool:
    """The first convolution takes [z_t, source]; the new half begins at zero (2211.09800, 3.2).

    Returns whether it was widened: that of a U-Net which saw the source before is left as it is.
    """
    old = unet.conv_in
    if old.in_channels == 2 * latents:
        return False
    new = nn.Conv2d(2 * latents, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :latents] = old.weight
        new.bias.copy_(old.bias)  # type: ignore[union-attr]  # this convolution has one
    unet.conv_in = new.to(old.weight.device)
    unet.register_to_config(in_channels=2 * latents)
    return True


def demand_form(networks: Networks, plan: Plan) -> None:
    """The networks can be given the form that the plan asks for.

    Raises:
        ModelError: a U-Net that sees the source cannot unlearn it; or the adapters' rank is none.
    """
    if plan.form is Form.PLAIN and networks.shapes.takes != networks.latents:
        raise ModelError(
            "this U-Net was trained in pairs and sees the source: it has no plain form; "
            "fine-tune it with --form paired"
        )
    if plan.lora_rank < 0:
        raise ModelError(f"rank {plan.lora_rank} of adapters: 0 (none) or more was expected")


def encoder_of(networks: Networks, grid: int, device: str) -> Any:
    """Films [n, 1, h, w] in -1 .. 1 to the latents that the written folder's model sees, at its
    own size: normalised by the base's statistics, since `write` keeps them.
    """
    mean, std = weights.latent_statistics(
        networks.autoencoder, networks.settings, torch.device(device)
    )
    colours = int(networks.autoencoder.config.in_channels)

    @torch.no_grad()
    def encode(x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.interpolate(x, (grid, grid), mode="bilinear", antialias=True)
        out = networks.autoencoder.encode(x.expand(-1, colours, -1, -1).to(device))
        z = out.latent if hasattr(out, "latent") else out.latent_dist.mode()
        normalised: torch.Tensor = ((z - mean) / std).cpu()
        return normalised

    return encode


def train(
    networks: Networks, plan: Plan, pool: Pool, recipe: Recipe, folder: Path, progress: Progress
) -> Tuned:
    """Fine-tune on the pool and return the averaged weights.

    Raises:
        ModelError: the networks have no such form.
        DivergedError: the loss stopped being a number; the last checkpoint is kept.
    """
    demand_form(networks, plan)
    torch.manual_seed(recipe.seed)
    tuned = Tuned(networks, plan).to(recipe.device).train()
    session = Session(model=tuned, recipe=recipe, folder=folder, progress=progress)
    lessons = Lessons(pool, np.random.default_rng(session.seed), plan.form)
    texts = _Texts(networks, pool.captions, recipe.device, trained=plan.train_text)
    objective = Objective(steps=networks.steps, prediction=networks.prediction, form=plan.form)
    for step in session.steps():
        lesson = lessons.take(recipe.batch)
        states = texts.states(lesson.words)
        loss = diffusion.losses(tuned.unet, lesson, states, recipe.device, objective)
        session.learn(loss.edit + loss.gate + loss.label)
        if step % _RECORD_EVERY == 0:
            session.record(loss.numbers())
    session.ema_into(tuned)
    return tuned.eval()


def write(
    tuned: Tuned, networks: Networks, plan: Plan, base: Path, out: Path, said: Settings
) -> str:
    """`out` is a model folder: the base's with what has been trained; returns its digest.

    Image gate and lung segmenter are the base's or, of a base that has none, the embedded model's:
    both look at films alone, at a size of their own. The healthy reference and a whole-lung adapter
    are left behind, for they are of the U-Net that was. `out` is replaced whole.
    """
    if plan.lora_rank:
        tuned.unet.fuse_lora()
        tuned.unet.unload_lora()
    with files.whole_folder(out) as scratch:
        _put_together(tuned, networks, base, scratch)
        settings.write(scratch, replace(said, tokens=_tokens(networks)))
        return digest.write_digests(scratch)


def _put_together(tuned: Tuned, networks: Networks, base: Path, out: Path) -> None:
    for part in ("vae", "tokenizer", "scheduler"):
        _copy(base / part, out / part)
    _copy(base / "model_index.json", out / "model_index.json")
    tuned.unet.save_pretrained(out / "unet")
    networks.text_encoder.save_pretrained(out / "text_encoder")
    for part in (IMAGE_GATE, LUNG_SEGMENTER):
        _copy(base / part if (base / part).is_file() else digest.EMBEDDED / part, out / part)
    for part in (LESION_GATE, LATENT_PRIOR):
        if (base / part).is_file():
            _copy(base / part, out / part)


class _Texts:
    """Captions' states: made once where the encoder rests, anew each time where it learns."""

    def __init__(
        self, networks: Networks, captions: Sequence[str], device: str, *, trained: bool
    ) -> None:
        self._network = networks.text_encoder
        words = networks.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=_tokens(networks),
            return_tensors="pt",
        )
        self._ids = words["input_ids"].to(device)
        self._mask = words["attention_mask"].to(device)
        self._kept: torch.Tensor | None = None
        if not trained:
            with torch.no_grad():
                self._kept = self._states(torch.arange(len(captions)))

    def states(self, words: torch.Tensor) -> torch.Tensor:
        """[n, tokens, width] of the captions at `words`."""
        return self._states(words) if self._kept is None else self._kept[words]

    def _states(self, words: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self._network(
            input_ids=self._ids[words], attention_mask=self._mask[words]
        ).last_hidden_state
        return made


def _tokens(networks: Networks) -> int:
    return min(networks.settings.tokens, networks.shapes.positions)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
