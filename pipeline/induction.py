"""A finding induced in a film by prompt: the paper's zero-shot capability, with or without a mask.

The same edit run the other way: its target is a finding in a zone instead of "normal".
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline import editing, prompts
from pipeline.errors import ModelError, UnlikeTrainingError
from pipeline.types import Image
from pipeline.weights import LoadedModel

_STEPS = 12
_GUIDANCE = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Induced:
    """`change` is what the prompt adds to the film, signed, [side, side] on the model grid."""

    prompt: str
    change: Image


def induce(
    model: LoadedModel, plane: Image, prompt: str, seed: int, where: Image | None = None
) -> Induced:
    """What `prompt` adds to a film on the grid.

    The edit under the prompt less the edit under "normal", from the same noise, weighted
    (classifier-free guidance, 2207.12598, eq. 6, with "normal" as the null).

    Args:
        model: a paired-edit model.
        plane: [side, side] float32, 0 black .. 1 white.
        prompt: free text; known words of zone and finding are put as the model knows them.
        seed: of the noise.
        where: [side, side] in 0 .. 1, where the film may change; None: the prompt alone decides.

    Raises:
        UnlikeTrainingError: the film looks like no frontal chest radiograph.
        ModelError: the model was not trained in pairs, or what it makes is no number.
    """
    if model.image_gate is not None and (objection := model.image_gate.refusal(plane)):
        raise UnlikeTrainingError(objection)
    x = torch.from_numpy(np.ascontiguousarray(plane))[None, None].to(model.device) * 2 - 1
    z = model.autoencoder.encode(x)
    changed = z + latent_change(model, z, prompt, seed, where)
    before, after = (model.autoencoder.decode(latent) for latent in (z, changed))
    change: Image = ((after - before) / 2)[0, 0].float().cpu().numpy()
    if not np.isfinite(change).all():
        raise ModelError("what the model makes of this film is no number: do not use this model")
    return Induced(prompt=prompts.load().understood(prompt), change=change)


def latent_change(
    model: LoadedModel, z: torch.Tensor, prompt: str, seed: int, where: Image | None = None
) -> torch.Tensor:
    """What `prompt` adds to a latent [1, c, h, w]; see `induce`."""
    if not model.denoiser.paired:
        raise ModelError("induction needs a paired-edit model; this one was not trained in pairs")
    words = prompts.load()
    texts = [words.understood(prompt), words.normal_prompts()[0]]
    noise = editing.noises(z.shape[1:], seed, 1).to(model.device)
    edit = editing.paired_edit(
        model.denoiser,
        z.repeat(2, 1, 1, 1),
        model.text_encoder.encode(texts),
        noise.repeat(2, 1, 1, 1),
        _STEPS,
    )
    asked, normal = edit.latent
    change: torch.Tensor = _GUIDANCE * (asked - normal)[None]
    if where is None:
        return change
    mask = torch.from_numpy(np.ascontiguousarray(where, np.float32))[None, None].to(z.device)
    return change * functional.adaptive_avg_pool2d(mask, (z.shape[-2], z.shape[-1]))
