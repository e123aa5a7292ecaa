"""Films that the model makes by itself: a normal one from noise, and an opacity induced in it."""

import torch

from pipeline import editing, prompts, schedule
from pipeline.models import Denoiser
from pipeline.types import Image
from pipeline.weights import LoadedModel

_STEPS = 30
_GUIDANCE = 2.0
_EDIT_STEPS = 12


def normal_film(model: LoadedModel, seed: int) -> Image:
    """A normal chest film of no patient: [grid, grid] float32, 0 black .. 1 white.

    Sampled from pure noise under the normal prompt, the source channels empty.
    """
    words = prompts.load().normal_prompts("PA")[0]
    return _film(model, _from_noise(model, words, seed))


def induced_film(model: LoadedModel, seed: int, zone: str, finding: str) -> Image:
    """The normal film of the same seed with a finding induced in a zone by prompt."""
    words = prompts.load()
    source = _from_noise(model, words.normal_prompts("PA")[0], seed)
    text = model.text_encoder.encode([words.induced_prompt(zone, finding, "PA")])
    noise = editing.noises(source.shape[1:], seed, 1).to(model.device)
    edit = editing.paired_edit(model.denoiser, source, text, noise, _EDIT_STEPS)
    return _film(model, editing.gated(source, edit))


def _from_noise(model: LoadedModel, words: str, seed: int) -> torch.Tensor:
    text = model.text_encoder.encode([words, ""])
    side = model.settings.grid // 8
    channels = model.autoencoder.encode(torch.zeros(1, 1, 64, 64, device=model.device)).shape[1]
    noise = editing.noises((channels, side, side), seed, 1).to(model.device)
    return _denoised(model.denoiser, noise, text)


def _denoised(denoiser: Denoiser, z_t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """DDIM from pure noise with classifier-free guidance (2207.12598, eq. 6)."""
    times = schedule.trailing_steps(_STEPS)
    for t, following in zip(times, [*times[1:], -1], strict=True):
        claim = denoiser.claim(z_t.repeat(2, 1, 1, 1), None, t, text)
        z_0 = claim.z_0[1:] + _GUIDANCE * (claim.z_0[:1] - claim.z_0[1:])
        eps = claim.eps[1:] + _GUIDANCE * (claim.eps[:1] - claim.eps[1:])
        if following < 0:
            return z_0
        alpha, sigma = denoiser.signal(following)
        z_t = alpha * z_0 + sigma * eps
    raise ValueError("sampling needs at least one step")


def _film(model: LoadedModel, z: torch.Tensor) -> Image:
    film: Image = (model.autoencoder.decode(z)[0, 0] / 2 + 0.5).clamp(0, 1).cpu().numpy()
    return film
