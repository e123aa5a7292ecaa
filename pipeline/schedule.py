"""The noise schedule: z_t = alpha_t z_0 + sigma_t eps, with alpha_t^2 + sigma_t^2 = 1."""

from dataclasses import dataclass

import torch

TRAIN_STEPS = 1000

_BETA_START, _BETA_END = 0.00085, 0.012  # scaled linear, as in Stable Diffusion


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """alpha_t and sigma_t of every training step t, each [TRAIN_STEPS] float32."""

    alpha: torch.Tensor
    sigma: torch.Tensor

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(alpha_t, sigma_t), each [n, 1, 1, 1], for t int64 [n]."""
        shape = (-1, 1, 1, 1)
        return (
            self.alpha.to(t.device)[t].view(shape),
            self.sigma.to(t.device)[t].view(shape),
        )


def from_alphas_cumprod(alphas_cumprod: torch.Tensor) -> Schedule:
    """A schedule from a checkpoint's cumulative products (alpha_t^2)."""
    squared = alphas_cumprod.double()
    return Schedule(alpha=squared.sqrt().float(), sigma=(1 - squared).clamp(min=0).sqrt().float())


def zero_terminal() -> Schedule:
    """The scaled-linear schedule, rescaled so that it ends in pure noise (2305.08891, alg. 1)."""
    roots = torch.linspace(_BETA_START**0.5, _BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64)
    return from_alphas_cumprod(ended_in_noise((1 - roots**2).cumprod(0)))


def ended_in_noise(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """alpha_t^2, rescaled so that the last is 0 and the first as it was (2305.08891, alg. 1)."""
    alpha = alphas_cumprod.double().sqrt()
    first, last = alpha[0], alpha[-1]
    squared: torch.Tensor = ((alpha - last) * first / (first - last)) ** 2
    return squared


def trailing_steps(count: int, start: int = TRAIN_STEPS) -> list[int]:
    """`count` training steps from start - 1 down to near 0, evenly spaced (2305.08891, 3.3).

    The grid is built for the very start asked for, so that an img2img strength is not rounded to a
    step of a full-length list.
    """
    return [round(start - i * start / count) - 1 for i in range(count)]


def velocity(
    z: torch.Tensor, eps: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """v = alpha eps - sigma z_0 (2202.00512, appendix D)."""
    return alpha * eps - sigma * z


def from_velocity(
    z_t: torch.Tensor, v: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(z_0, eps) that `v` claims for z_t."""
    return alpha * z_t - sigma * v, sigma * z_t + alpha * v


def clean_and_noise(
    prediction: str, z_t: torch.Tensor, out: torch.Tensor, alpha: float, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(z_0, eps) from what a network predicts of z_t (2202.00512, appendix D)."""
    if prediction == "v_prediction":
        return alpha * z_t - sigma * out, sigma * z_t + alpha * out
    if prediction == "sample":
        return out, (z_t - alpha * out) / max(sigma, 1e-8)
    return (z_t - sigma * out) / max(alpha, 1e-8), out


def aim_of(
    prediction: str,
    z: torch.Tensor,
    eps: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
) -> torch.Tensor:
    """What a network that predicts in this way should say of alpha z + sigma eps."""
    if prediction == "v_prediction":
        return velocity(z, eps, alpha, sigma)
    return z if prediction == "sample" else eps


def min_snr_weight(
    alpha: torch.Tensor,
    sigma: torch.Tensor,
    prediction: str = "v_prediction",
    cap: float = 5.0,
) -> torch.Tensor:
    """The min-SNR weight of each prediction's squared error (2303.09556, 3.4).

    min(SNR, cap) for the sample, over SNR + 1 for the velocity, over SNR for the noise.
    """
    snr = (alpha / sigma.clamp(min=1e-8)) ** 2
    scale = {"sample": torch.ones_like(snr), "v_prediction": snr + 1, "epsilon": snr}
    return snr.clamp(max=cap) / scale[prediction].clamp(min=1e-8)
