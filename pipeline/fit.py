"""Whether what a model folder holds fits together: asked before a film is, so that a part of
another shape is not found by a film that fails, or by a result that is wrong.

Imports no network library: what needs no network to be built is asked at a node's start too.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError
from pipeline.settings import Settings

if TYPE_CHECKING:
    import torch

AUTOENCODERS = ("AutoencoderDC", "AutoencoderKL")
"""Those that this program knows, by diffusers' names."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may predict of z_t, in diffusers' words."""

_SCHEDULE = ("beta_schedule", "beta_start", "beta_end", "prediction_type")
"""What decides of every edit, and has a default in diffusers, which is another checkpoint's."""
_KNEW_NO_PREDICTION = re.compile(r"0\.\d(\D|$)")
"""Versions of diffusers, before 0.10, of which not every scheduler knew a prediction_type: Stable
Diffusion 1's folders are of these, and lack the key."""

_LEAST_GRID_PX = 32  # the image gate's thumbnail has 28 pixels a side


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What the networks of a folder take and give.

    `latents` are the autoencoder's channels and `scale` its pixels a latent; `takes`, `gives` and
    `attends` are the U-Net's channels in and out and the width of the states it attends to; `width`
    and `positions` are the text encoder's.
    """

    latents: int
    scale: int
    takes: int
    gives: int
    attends: int
    width: int
    positions: int


def demand_autoencoder(folder: Path, config: Mapping[str, Any]) -> None:
    """The autoencoder is of a kind that this program knows, and its latents are scaled by numbers.

    Raises:
        ModelError: it is not.
    """
    kind, scale, shift = (config.get(k) for k in ("_class_name", "scaling_factor", "shift_factor"))
    if kind not in AUTOENCODERS:
        raise ModelError(f"{folder / 'vae'}: {kind} is none of {', '.join(AUTOENCODERS)}")
    if scale is not None and not (_is_number(scale) and scale > 0):
        raise ModelError(
            f"{folder / 'vae'}: scaling_factor {scale!r}: a number above 0 was expected"
        )
    if shift is not None and not _is_number(shift):
        raise ModelError(f"{folder / 'vae'}: shift_factor {shift!r}: a number was expected")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def demand_schedule(folder: Path, config: Mapping[str, Any]) -> str:
    """The scheduler's configuration says what it must; what the U-Net predicts.

    Raises:
        ModelError: it lacks a key, or the U-Net predicts what this program does not know.
    """
    known = dict(config)
    before = _KNEW_NO_PREDICTION.match(str(config.get("_diffusers_version")))
    if before and config.get("predict_epsilon", True) is True:
        known.setdefault("prediction_type", "epsilon")
    if lacking := [key for key in _SCHEDULE if key not in known]:
        raise ModelError(
            f"{folder / 'scheduler'}: scheduler_config.json lacks {', '.join(lacking)}: say what "
            "the U-Net was trained with, or install the model again"
        )
    if (prediction := known["prediction_type"]) not in PREDICTIONS:
        raise ModelError(f"{folder / 'scheduler'}: unknown prediction_type {prediction!r}")
    return str(prediction)


def demand_parts(folder: Path, of: Shapes) -> None:
    """The networks fit each other.

    Raises:
        ModelError: one does not.
    """
    if of.takes not in (of.latents, 2 * of.latents):
        raise ModelError(
            f"{folder / 'unet'}: takes {of.takes} channels; the autoencoder has {of.latents}, so "
            f"{of.latents} or {2 * of.latents} (with the source beside) were expected"
        )
    if of.gives not in (of.latents, of.latents + 1):
        raise ModelError(
            f"{folder / 'unet'}: gives {of.gives} channels; the autoencoder has {of.latents}, so "
            f"{of.latents} or {of.latents + 1} (with a gate) were expected"
        )
    if of.width != of.attends:
        raise ModelError(
            f"{folder}: the text encoder's states are {of.width} wide, the U-Net attends to "
            f"{of.attends}: take a text encoder of that width"
        )


def demand_latents(folder: Path, latents: int, said: Settings) -> None:
    """The settings' statistics, where there are any, are of the autoencoder's channels.

    Raises:
        ModelError: they are not.
    """
    for name in ("latents_mean", "latents_std"):
        found = len(getattr(said, name))
        if found not in (0, latents):
            raise ModelError(
                f"{folder}: {name} has {found} values; the autoencoder has {latents} channels"
            )


def demand_settings(folder: Path, of: Shapes, said: Settings) -> None:
    """The folder's networks can do what its settings say.

    Raises:
        ModelError: they cannot.
    """
    demand_latents(folder, of.latents, said)
    if said.grid % of.scale or said.grid < _LEAST_GRID_PX:
        raise ModelError(
            f"{folder}: grid {said.grid}: a multiple of {of.scale}, the autoencoder's pixels a "
            f"latent, and at least {_LEAST_GRID_PX} was expected"
        )
    if said.tokens > of.positions:
        raise ModelError(
            f"{folder}: tokens {said.tokens}: the text encoder has {of.positions} positions; "
            "say in vald.json how many it was trained with"
        )


def demand_reference(folder: Path, grid: int, shape: tuple[int, ...]) -> None:
    """The healthy reference, of this shape, lies on the model's grid.

    Raises:
        ModelError: it is of another size.
    """
    if shape != (grid, grid):
        pixels = " x ".join(map(str, shape))
        raise ModelError(
            f"{folder}: the healthy reference has {pixels} pixels, the grid {grid} x {grid}: "
            "calibrate the model again"
        )


def demand_whole(what: Path, missing: set[str], unknown: set[str]) -> None:
    """A file of weights has all that its network needs, and nothing that it does not know.

    Raises:
        ModelError: tensors are missing, which would be random, or are of another network.
    """
    for names, how in ((missing, "lacks"), (unknown, "has, and its network does not know,")):
        if names:
            few = ", ".join(sorted(names)[:3])
            raise ModelError(
                f"{what}: {how} {len(names)} tensor(s), such as {few}: install the model again"
            )


def demand_shapes(
    what: Path, tensors: "Mapping[str, torch.Tensor]", shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """A file of weights has the tensors that are expected, each of its shape, and no others.

    Raises:
        ModelError: it has not; a network would stop at the first film, or answer for another.
    """
    demand_whole(what, shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys())
    for name, shape in shapes.items():
        if (found := tuple(tensors[name].shape)) != shape:
            raise ModelError(
                f"{what}: {name} is of shape {found}, and {shape} was expected: "
                "install the model again"
            )


def demand_finite(what: Path, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Every weight is a number.

    Raises:
        ModelError: one is not.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelError(
                f"{what}: {name} holds what is no number: the training diverged or the file is "
                "damaged; install the model again"
            )
