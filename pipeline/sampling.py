"""Films of no patient that the model makes by itself: a normal one, and a finding induced in it."""

from dataclasses import dataclass

import torch

from pipeline import induction
from pipeline.errors import ModelError
from pipeline.types import Image
from pipeline.weights import LoadedModel

_SPREAD = 0.8  # of the prior's SD: typical films, not its edges


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A normal film and the same with a finding: each [grid, grid] float32, 0 black .. 1 white."""

    normal: Image
    film: Image


def sample(model: LoadedModel, seed: int, prompt: str) -> Sampled:
    """A film of no patient, and the finding that `prompt` asks for induced in it.

    The normal film is drawn from the latent prior (probabilistic PCA: Tipping and Bishop, 1999) and
    decoded.

    Raises:
        ModelError: the model folder has no latent prior.
    """
    z = _normal_latent(model, seed)
    changed = z + induction.latent_change(model, z, prompt, seed)
    return Sampled(normal=_film(model, z), film=_film(model, changed))


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
