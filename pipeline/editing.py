"""The paired edit: from noise to the target's latent beside the source's (2211.09800).

One edit takes a part of a lesion away; what it leaves is a fainter lesion, of which the next takes
its part. So an edit is made of its own result, pass after pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pipeline import schedule
from pipeline.models import Claim, Denoiser


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`latent` is the edited latent before the gate [n, c, h, w]; `gate` [n, 1, h, w] in 0 .. 1 the
    mean over the steps, and `first_gate` that of the first, from pure noise."""

    latent: torch.Tensor
    gate: torch.Tensor
    first_gate: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """`latent` is z_cf [n, c, h, w]; `first` the edit of the first pass, which alone sees the film:
    what it would be had the gate been 1 everywhere, and the gate.
    """

    latent: torch.Tensor
    first: Edit


def paired_edit(
    denoiser: Denoiser, source: torch.Tensor, text: torch.Tensor, noise: torch.Tensor, steps: int
) -> Edit:
    """Deterministic DDIM (2010.02502, eq. 12 with eta 0) from pure noise in `steps` steps.

    The gate is the mean over the steps, each of which sees the source and another z_t.
    """
    z_t, gates = noise, []
    times = schedule.trailing_steps(steps)
    for t, following in zip(times, [*times[1:], -1], strict=True):
        claim = denoiser.claim(z_t, source, t, text)
        gates.append(torch.ones_like(source[:, :1]) if claim.gate is None else claim.gate)
        if following < 0:
            gate = torch.stack(gates).mean(0)
            return Edit(latent=claim.z_0, gate=gate, first_gate=gates[0])
        alpha, sigma = denoiser.signal(following)
        z_t = alpha * claim.z_0 + sigma * claim.eps
    raise ValueError("an edit needs at least one step")


def counterpart(
    denoiser: Denoiser,
    source: torch.Tensor,
    text: torch.Tensor,
    noise: Sequence[torch.Tensor],
    steps: int,
    open_to: torch.Tensor | None = None,
) -> Counterpart:
    """z_cf after one pass for each noise, every pass an edit of the result of the one before.

    Each has a gate of its own, which closes as the lesion goes, and not further than `open_to`
    [n, 1, h, w] where that is given.
    """
    z, edits = source, []
    for eps in noise:
        edit = paired_edit(denoiser, z, text, eps, steps)
        if open_to is not None:
            edit = replace(edit, gate=torch.maximum(edit.gate, open_to))
        edits.append(edit)
        z = gated(z, edit)
    if not edits:
        raise ValueError("a counterpart needs at least one pass")
    return Counterpart(latent=z, first=edits[0])


def first_look(
    denoiser: Denoiser, source: torch.Tensor, text: torch.Tensor, noise: torch.Tensor
) -> Claim:
    """What the first step, from pure noise, claims of `source`."""
    return denoiser.claim(noise, source, schedule.TRAIN_STEPS - 1, text)


def remaining(
    denoiser: Denoiser, source: torch.Tensor, text: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor | None:
    """What the gate of the first step would still change of `source`; None without a gate."""
    return first_look(denoiser, source, text, noise).gate


def gated(source: torch.Tensor, edit: Edit) -> torch.Tensor:
    """z_cf = z_source + m (z_edit - z_source): where the gate is shut the patient's own stays."""
    return source + edit.gate * (edit.latent - source)


def noises(shape: Sequence[int], seed: int, draws: int) -> torch.Tensor:
    """[draws, *shape] standard normal; each draw has its own generator, on the CPU.

    The same seed gives the same noise on every device and for any number of draws.
    """
    return torch.stack([_normal(shape, seed * 1_000_003 + draw) for draw in range(draws)])


def _normal(shape: Sequence[int], seed: int) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(seed % 2**63)
    return torch.randn(tuple(shape), generator=generator)
