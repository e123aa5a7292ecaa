"""Real, small stand-ins: closed-form networks, a tiny model folder, an engine without a network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import BertWordPieceTokenizer
from torch.nn import functional
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from pipeline import digest, settings
from pipeline.engine.base import Request
from pipeline.models import Claim
from pipeline.schedule import Schedule, zero_terminal
from pipeline.settings import Settings
from pipeline.types import Attribution, ModelIdentity, Region, Status

TINY_GRID = 64
_LATENTS = 4


class BlockAutoencoder:
    """Every 8 x 8 block becomes 64 channels and back, exactly; film and latent say the same."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Space to depth."""
        return functional.pixel_unshuffle(x, 8)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Depth to space."""
        return functional.pixel_shuffle(z, 8)


class GaussianDenoiser:
    """The exact denoiser of a world where every latent value is N(mean, sd^2)."""

    paired = True

    def __init__(self, mean: float, sd: float, gate: float = 1.0) -> None:
        self._mean, self._sd, self._gate = mean, sd, gate
        self._steps: Schedule = zero_terminal()

    def signal(self, t: int) -> tuple[float, float]:
        """(alpha_t, sigma_t)."""
        return float(self._steps.alpha[t]), float(self._steps.sigma[t])

    def claim(
        self,
        z_t: torch.Tensor,
        source: torch.Tensor | None,  # noqa: ARG002 - this world knows neither
        t: int,
        text: torch.Tensor,  # noqa: ARG002
    ) -> Claim:
        """E[z_0 | z_t] of two Gaussians (Bishop 2006, 2.116); source and text say nothing here."""
        alpha, sigma = self.signal(t)
        gain = alpha * self._sd**2 / (alpha**2 * self._sd**2 + sigma**2)
        z_0 = self._mean + gain * (z_t - alpha * self._mean)
        eps = (z_t - alpha * z_0) / max(sigma, 1e-8)
        return Claim(z_0=z_0, eps=eps, gate=torch.full_like(z_t[:, :1], self._gate))


class BrightnessEngine:
    """An engine without a network: what is brighter than `normal` is the finding."""

    model_digest = "0" * 64

    def __init__(self, normal: float = 0.6) -> None:
        self._normal = normal

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        """Counterfactual min(film, normal); one region, the bright pixels' bounding box."""
        return [self._one(request) for request in requests]

    def close(self) -> None:
        """Nothing is held."""

    def _one(self, request: Request) -> Attribution:
        film = request.film.pixels
        counterfactual = np.minimum(film, np.float32(self._normal))
        difference = film - counterfactual
        return Attribution(
            counterfactual=counterfactual,
            difference=difference,
            attribution_map=difference,
            threshold=0.1,
            scale_max=0.4,
            regions=_box_around(difference > 0.1, difference),
            score=float(min(1.0, difference.max() / 0.4)),
            uncertainty=0.0,
            status=Status.VALID,
            reasons=(),
            model=ModelIdentity(
                name="brightness",
                version="1",
                digest=self.model_digest,
                mode=request.mode,
                seed=request.seed,
                method_version="1",
            ),
        )


def _box_around(marked: np.ndarray, values: np.ndarray) -> tuple[Region, ...]:
    if not marked.any():
        return ()
    rows, cols = np.nonzero(marked.any(1))[0], np.nonzero(marked.any(0))[0]
    r0, r1, c0, c1 = map(float, (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1))
    outline = ((r0, c0), (r0, c1), (r1, c1), (r1, c0), (r0, c0))
    inside = values[marked]
    region = Region(
        outline=outline,
        area_px=int(marked.sum()),
        peak=float(inside.max()),
        mean=float(inside.mean()),
    )
    return (region,)


def write_tiny_model(
    folder: Path, *, paired: bool = True, grid: int = TINY_GRID, seed: int = 0
) -> str:
    """A random model folder of the embedded form, small enough to run in a blink; its digest."""
    torch.manual_seed(seed)
    stages = (0, 8, 16, 32)
    AutoencoderDC(
        in_channels=1,
        latent_channels=_LATENTS,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=stages,
        decoder_block_out_channels=stages,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        sample_size=8,
        in_channels=2 * _LATENTS if paired else _LATENTS,
        out_channels=_LATENTS + 1 if paired else _LATENTS,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    _write_text_encoder(folder)
    DDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "Tiny"}\n', encoding="utf-8")
    settings.write(
        folder,
        Settings(name="tiny", version="0", grid=grid, tokens=16, steps=2, paper_steps=2),
    )
    return digest.write_digests(folder)


def write_stable_diffusion_like(folder: Path, *, text_width: int = 768, seed: int = 0) -> None:
    """A random folder of Stable Diffusion's shape, tiny: KL autoencoder of three colours, 4 latent
    channels, epsilon, and a BERT of RadBERT's width as text encoder."""
    torch.manual_seed(seed)
    AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=TINY_GRID,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        sample_size=TINY_GRID // 8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=768,
        attention_head_dim=8,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    _write_text_encoder(folder, width=text_width)
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "Tiny"}\n', encoding="utf-8")


def _write_text_encoder(folder: Path, width: int = 32) -> None:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = BertWordPieceTokenizer(lowercase=True)
    words = "frontal chest radiograph normal opacity right left lower upper zone . "
    pieces.train_from_iterator([words] * 2, vocab_size=160, special_tokens=list(special))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, **dict(zip(names, special, strict=True))
    ).save_pretrained(folder / "tokenizer")
    config = BertConfig(
        vocab_size=160,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder / "text_encoder")
