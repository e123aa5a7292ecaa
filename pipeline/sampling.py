"""Films that the model makes by itself: a normal one of no patient, and a finding induced in it."""

from dataclasses import dataclass

import torch

from pipeline import editing, prompts
from pipeline.errors import ModelError
from pipeline.types import Image
from pipeline.weights import LoadedModel

_EDIT_STEPS = 12
_INDUCTION_GUIDANCE = 1.5
_SPREAD = 0.8  # of the prior's SD: typical films, not its edges


@dataclass(frozen=True, slots=True, kw_only=True)
class Induced:
    """A normal film and the same with a finding: each [grid, grid] float32, 0 black .. 1 white."""

    normal: Image
    film: Image


def induce(model: LoadedModel, seed: int, zone: str, finding: str) -> Induced:
    """A film of no patient, and the finding induced in it by prompt.

    The normal film is drawn from the latent prior (probabilistic PCA: Tipping and Bishop, 1999) and
    decoded; the finding is the edit under its prompt less the edit under "normal" from the same
    noise, weighted (classifier-free guidance, 2207.12598, eq. 6, with "normal" as the null).

    Raises:
        ModelError: the model folder has no latent prior.
    """
    z = _normal_latent(model, seed)
    words = prompts.load()
    texts = [words.induced_prompt(zone, finding, "PA"), words.normal_prompts("PA")[0]]
    noise = editing.noises(z.shape[1:], seed, 1).to(model.device)
    edit = editing.paired_edit(
        model.denoiser,
        z.repeat(2, 1, 1, 1),
        model.text_encoder.encode(texts),
        noise.repeat(2, 1, 1, 1),
        _EDIT_STEPS,
    )
    asked, normal = edit.latent
    return Induced(
        normal=_film(model, z), film=_film(model, z + _INDUCTION_GUIDANCE * (asked - normal))
    )


def _normal_latent(model: LoadedModel, seed: int) -> torch.Tensor:
    prior = model.latent_prior
    if prior is None:
        raise ModelError("the model folder has no latent prior to draw a film from")
    generator = torch.Generator("cpu").manual_seed(seed)
    weights = torch.randn(len(prior.sd), generator=generator) * prior.sd * _SPREAD
    side = model.settings.grid // 8
    z = prior.mean + weights @ prior.axes
    return z.view(1, -1, side, side).to(model.device)


def _film(model: LoadedModel, z: torch.Tensor) -> Image:
    film: Image = (model.autoencoder.decode(z)[0, 0] / 2 + 0.5).clamp(0, 1).cpu().numpy()
    return film
