"""The paper's way: img2img towards the normal prompt, with classifier-free guidance.

VALD-MD (2401.01414): noise the latent for a part of the way (SDEdit, 2108.01073), then denoise it
under the prompt (2207.12598).
"""

import torch

from pipeline import schedule
from pipeline.models import Claim, Denoiser
from pipeline.schedule import TRAIN_STEPS


def image_to_image(
    denoiser: Denoiser,
    source: torch.Tensor,
    text: torch.Tensor,
    nothing: torch.Tensor,
    noise: torch.Tensor,
    *,
    strength: float,
    guidance: float,
    steps: int,
) -> torch.Tensor:
    """The latent after noising `source` to `strength` of the way and denoising it under `text`.

    `nothing` holds the states of the empty prompt; `guidance` 1.0 is the prompt alone.
    """
    times = schedule.trailing_steps(steps, start=max(1, round(strength * TRAIN_STEPS)))
    alpha, sigma = denoiser.signal(times[0])
    z_t = alpha * source + sigma * noise
    for t, following in zip(times, [*times[1:], -1], strict=True):
        claim = _guided(denoiser, z_t, t, text, nothing, guidance)
        if following < 0:
            return claim.z_0
        alpha, sigma = denoiser.signal(following)
        z_t = alpha * claim.z_0 + sigma * claim.eps
    raise ValueError("img2img needs at least one step")


def _guided(
    denoiser: Denoiser,
    z_t: torch.Tensor,
    t: int,
    text: torch.Tensor,
    nothing: torch.Tensor,
    guidance: float,
) -> Claim:
    """eps = eps_nothing + w (eps_text - eps_nothing) (2207.12598, eq. 6), as one batch."""
    both = denoiser.claim(z_t.repeat(2, 1, 1, 1), None, t, torch.cat([text, nothing]))
    (eps, eps_nothing), (z_0, z_nothing) = both.eps.chunk(2), both.z_0.chunk(2)
    return Claim(
        z_0=z_nothing + guidance * (z_0 - z_nothing),
        eps=eps_nothing + guidance * (eps - eps_nothing),
        gate=None,
    )
