"""Counterparts by a checkpoint that was not trained in pairs: invert, then denoise otherwise.

Edit-friendly inversion (2304.06140): noise maps are computed so that the same prompt gives the
source back exactly; under another prompt they carry over what the prompt does not speak of. The two
prompts share every noise map, and what must stay is put back at each step from the source's own
noised latent of the *same* time (one step noisier, as a published implementation pastes it, would
leave noise in the result).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline import schedule
from pipeline.models import Claim, Denoiser


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverted:
    """A source along the steps `times`: `path[i]` is its latent at times[i], noise maps beside.

    `path` has one more entry than `times`, the source itself; `noise[i]` leads from path[i] to
    path[i + 1] (for the last step, where no noise is drawn, it is the remainder itself).
    """

    times: tuple[int, ...]
    path: tuple[torch.Tensor, ...]
    noise: tuple[torch.Tensor, ...]


def invert(
    denoiser: Denoiser,
    source: torch.Tensor,
    text: torch.Tensor,
    seed_noise: Sequence[torch.Tensor],
    times: Sequence[int],
) -> Inverted:
    """The noise maps of `source` under `text` (2304.06140, algorithm 1).

    Args:
        denoiser: a text-conditioned noise model.
        source: [n, c, h, w], clean.
        text: states of what the source is, [n, tokens, width].
        seed_noise: one independent noise [n, c, h, w] a time: that is what makes maps editable.
        times: falling training steps, the first of them the noisiest.
    """
    path = [_noised(denoiser, source, eps, t) for eps, t in zip(seed_noise, times, strict=True)]
    path.append(source)
    maps = []
    for i, (t, following) in enumerate(_moves(times)):
        mean, sd = _step(denoiser, denoiser.claim(path[i], None, t, text), t, following)
        maps.append((path[i + 1] - mean) / sd)
    return Inverted(times=tuple(times), path=tuple(path), noise=tuple(maps))


def edit(
    denoiser: Denoiser,
    inverted: Inverted,
    text: torch.Tensor,
    source_text: torch.Tensor,
    guidance: float,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """The source's counterpart under `text`: eps = eps_source + w (eps_text - eps_source).

    Args:
        denoiser: the one that inverted.
        inverted: the source's path and noise maps.
        text: states of the target prompt.
        source_text: states of the prompt that it was inverted under.
        guidance: w; 0 gives the source back.
        keep: [n, 1, h, w], 1 where the source must stay (RadEdit, 2312.12865), 0 elsewhere.
    """
    z_t = inverted.path[0]
    for i, (t, following) in enumerate(_moves(inverted.times)):
        claim = _between(denoiser, z_t, t, text, source_text, guidance)
        mean, sd = _step(denoiser, claim, t, following)
        z_t = mean + sd * inverted.noise[i]
        if keep is not None:
            z_t = keep * inverted.path[i + 1] + (1 - keep) * z_t
    return z_t


def times(steps: int, start: float) -> list[int]:
    """The falling training steps from `start` (0 .. 1) of the way to noise."""
    return schedule.trailing_steps(steps, start=max(1, round(start * schedule.TRAIN_STEPS)))


def _moves(along: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(along, [*along[1:], -1], strict=True))


def _noised(denoiser: Denoiser, source: torch.Tensor, eps: torch.Tensor, t: int) -> torch.Tensor:
    alpha, sigma = denoiser.signal(t)
    return alpha * source + sigma * eps


def _step(denoiser: Denoiser, claim: Claim, t: int, following: int) -> tuple[torch.Tensor, float]:
    """Mean and SD of z at `following` given z at t (2010.02502, eq. 12 and 16 with eta 1)."""
    if following < 0:
        return claim.z_0, 1.0
    (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.signal(t), denoiser.signal(following)
    variance = (sigma_s**2 / sigma_t**2) * (1 - alpha_t**2 / alpha_s**2)
    mean = alpha_s * claim.z_0 + max(sigma_s**2 - variance, 0.0) ** 0.5 * claim.eps
    return mean, variance**0.5


def _between(
    denoiser: Denoiser,
    z_t: torch.Tensor,
    t: int,
    text: torch.Tensor,
    source_text: torch.Tensor,
    guidance: float,
) -> Claim:
    """Both prompts' claims of the same latent, as one batch, and the point between or beyond."""
    both = denoiser.claim(z_t.repeat(2, 1, 1, 1), None, t, torch.cat([text, source_text]))
    (asked, own), (asked_eps, own_eps) = both.z_0.chunk(2), both.eps.chunk(2)
    return Claim(
        z_0=own + guidance * (asked - own),
        eps=own_eps + guidance * (asked_eps - own_eps),
        gate=None,
    )
