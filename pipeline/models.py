"""What the method asks of a network; tensors are float32 on the network's device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a denoiser claims of z_t: the clean latent, the noise and, if it has one, the gate.

    `z_0` and `eps` are [n, c, h, w]; `gate` is [n, 1, h, w] in 0 keep .. 1 change; `states` are
    what the network's middle and upper blocks gave out on the way, each [n, channels, h, w].
    """

    z_0: torch.Tensor
    eps: torch.Tensor
    gate: torch.Tensor | None
    states: tuple[torch.Tensor, ...] = ()


class Autoencoder(Protocol):
    """Films to latents and back; latents have mean 0 and SD 1 over the training films."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, h, w] in -1 black .. 1 white -> [n, c, h/f, w/f]; the mode, never a sample."""
        ...

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """[n, c, h/f, w/f] -> [n, 1, h, w], about -1 black .. 1 white, not clipped."""
        ...


class Denoiser(Protocol):
    """A text-conditioned noise model, whatever quantity its network predicts."""

    @property
    def paired(self) -> bool:
        """Whether it takes the source's latent beside z_t (InstructPix2Pix form)."""
        ...

    def signal(self, t: int) -> tuple[float, float]:
        """(alpha_t, sigma_t) with z_t = alpha_t z_0 + sigma_t eps; t in 0 .. 999."""
        ...

    def claim(
        self, z_t: torch.Tensor, source: torch.Tensor | None, t: int, text: torch.Tensor
    ) -> Claim:
        """What z_t holds, given the source's latent (None: not given) and the text's states."""
        ...


class TextEncoder(Protocol):
    """Prompts to the states that the denoiser attends to."""

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """[n, tokens, width]; the same prompt gives the same states."""
        ...
