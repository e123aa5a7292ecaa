"""Trains the autoencoder: 1 -> 8 channels, or as many as are asked for, at one eighth of the grid.

The form is DC-AE's (arXiv 2410.10733, diffusers `AutoencoderDC`), whose space-to-channel shortcuts
let a small network start from an average and learn only the residual.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch.nn import functional

from pipeline.training.pictures import Films
from pipeline.training.session import Progress, Recipe, Session, autocast

LATENT_CHANNELS = 8  # of the embedded model
_CROP = 128
_STAGES = (0, 32, 64, 128)  # no blocks at full resolution: the convolution in halves it
MOST_LATENT_CHANNELS = _STAGES[-1]
_ENCODER_LAYERS = (0, 1, 2, 3)
_DECODER_LAYERS = (0, 2, 3, 3)
_NO_ATTENTION: tuple[tuple[int, ...], ...] = ((),) * len(_STAGES)
_GRADIENT_WEIGHT = 1.0
_SCALE_WEIGHT = 1e-4  # keeps latents near unit size, as the KL term of a VAE would
_LATENT_NOISE = 0.05  # share of the latents' SD; the decoder learns to bear the U-Net's error
_RECORD_EVERY = 100


def build(channels: int = LATENT_CHANNELS) -> AutoencoderDC:
    """A new, untrained autoencoder; the embedded model's shape but for its latents' channels.

    Its shortcuts average the last stage's channels into the latents', so they must divide these.
    """
    return AutoencoderDC(
        in_channels=1,
        latent_channels=channels,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=_STAGES,
        decoder_block_out_channels=_STAGES,
        encoder_layers_per_block=_ENCODER_LAYERS,
        decoder_layers_per_block=_DECODER_LAYERS,
        encoder_qkv_multiscales=_NO_ATTENTION,
        decoder_qkv_multiscales=_NO_ATTENTION,
    )


def train(
    films: Films,
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    channels: int = LATENT_CHANNELS,
) -> AutoencoderDC:
    """Train on random crops of `films` and return the averaged weights.

    Raises:
        DivergedError: the loss stopped being a number; the last checkpoint is kept.
    """
    torch.manual_seed(recipe.seed)
    model = build(channels).to(recipe.device, memory_format=torch.channels_last)
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    crops = _crops(films, recipe.batch, np.random.default_rng(session.seed))
    for step in session.steps():
        loss = reconstruction_loss(model, next(crops).to(recipe.device))
        session.learn(loss)
        if step % _RECORD_EVERY == 0:
            session.record({"loss": float(loss.detach())})
    session.ema_into(model)
    return model.eval()


def reconstruction_loss(model: AutoencoderDC, x: torch.Tensor) -> torch.Tensor:
    """L1 of the pixels and of their gradients; `x` is [n, 1, h, w] in -1 .. 1."""
    with autocast(x.device):
        z = model.encode(x).latent
        noise = torch.rand(len(z), 1, 1, 1, device=z.device) * _LATENT_NOISE * z.detach().std()
        y = model.decode(z + noise * torch.randn_like(z)).sample
    error = y.float() - x
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    scale = functional.relu(z.float().square() - 1).mean()
    loss: torch.Tensor = error.abs().mean() + _GRADIENT_WEIGHT * gradient + _SCALE_WEIGHT * scale
    return loss


@torch.no_grad()
def psnr(model: AutoencoderDC, films: Films, device: str, batch: int = 16) -> list[float]:
    """Peak signal to noise ratio of each film's reconstruction, in dB, for the range 0 .. 1."""
    values: list[float] = []
    for start in range(0, len(films), batch):
        x = to_signed(films[start : start + batch]).to(device)
        error = (model.decode(model.encode(x).latent).sample.clamp(-1, 1) - x) / 2
        values += (-10 * error.square().mean((1, 2, 3)).log10()).tolist()
    return values


def to_signed(films: Films) -> torch.Tensor:
    """[n, h, w] uint8 -> [n, 1, h, w] float32 in -1 black .. 1 white."""
    x = torch.from_numpy(np.array(films)).float()[:, None] / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def _crops(films: Films, size: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of random crops with random contrast, [size, 1, crop, crop]."""
    side = films.shape[-1] - _CROP + 1
    while True:
        index = rng.integers(0, len(films), size)
        top, left = rng.integers(0, side, (2, size))
        batch = np.stack(
            [
                films[i, y : y + _CROP, x : x + _CROP]
                for i, y, x in zip(index, top, left, strict=True)
            ]
        )
        gamma = torch.from_numpy(np.exp(rng.normal(0, 0.2, (size, 1, 1, 1)))).float()
        unit = ((to_signed(batch) + 1) / 2) ** gamma
        yield (unit * 2 - 1).contiguous(memory_format=torch.channels_last)
