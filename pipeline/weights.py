"""Loads a diffusers folder; alone imports diffusers and transformers for inference."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL, UNet2DConditionModel
from diffusers import schedulers as diffusers_schedulers
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, CLIPTextModel
from transformers.utils import logging as transformers_logging

from pipeline import calibration, digest, schedule, settings
from pipeline.calibration import HealthyReference
from pipeline.errors import ModelError
from pipeline.gates import Gaussian, ImageGate, ViewClassifier
from pipeline.models import Autoencoder, Claim, Denoiser, TextEncoder
from pipeline.schedule import Schedule
from pipeline.segmenter import Segmenter
from pipeline.settings import Settings

# Their progress bars and advice are not for the log of a service.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()

IMAGE_GATE = "image_gate.safetensors"
LUNG_SEGMENTER = "lung_segmenter.safetensors"
LATENT_PRIOR = "latent_prior.safetensors"
CLASSIFIER = "classifier.safetensors"
RIVAL = "lesion_segmenter.safetensors"
JUDGES = Path(__file__).parent / "judges"
"""The networks that judge an edit: no part of any model, and of no model's digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentPrior:
    """Normal films' latents as a Gaussian: `mean` [d], `axes` [k, d] orthonormal, `sd` [k]."""

    mean: torch.Tensor
    axes: torch.Tensor
    sd: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model folder, ready on one device. The parts that a foreign folder lacks are None."""

    settings: Settings
    digest: str
    device: torch.device
    autoencoder: Autoencoder
    denoiser: Denoiser
    text_encoder: TextEncoder
    image_gate: ImageGate | None
    latent_prior: LatentPrior | None
    lung_segmenter: Segmenter | None
    healthy: HealthyReference | None


def choose_device(wish: str) -> torch.device:
    """The device named, or for "auto" the best one of this machine: cuda, mps, cpu.

    Raises:
        ModelError: the machine has no such device.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        return torch.device(next(name for name, there in has.items() if there))
    if not has.get(wish.split(":")[0], False):
        raise ModelError(f"device {wish!r}: this machine has {', '.join(n for n in has if has[n])}")
    return torch.device(wish)


def load(folder: Path, device: torch.device) -> LoadedModel:
    """The model in `folder`, its files checked against digests.json, on `device`.

    Raises:
        ModelError: a part is missing, damaged, pickled or of an unknown form.
    """
    found = digest.model_digest(folder)
    said = settings.read(folder)
    try:
        return LoadedModel(
            settings=said,
            digest=found,
            device=device,
            autoencoder=_autoencoder(folder, said, device),
            denoiser=_denoiser(folder, device),
            text_encoder=_text_encoder(folder, said, device),
            image_gate=_image_gate(folder / IMAGE_GATE),
            latent_prior=_latent_prior(folder / LATENT_PRIOR),
            lung_segmenter=_lung_segmenter(folder / LUNG_SEGMENTER),
            healthy=calibration.load(folder),
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as fault:
        raise ModelError(f"{folder}: cannot be loaded: {fault}") from fault


class _DiffusersAutoencoder:
    """AutoencoderDC or AutoencoderKL with latents normalised per channel."""

    def __init__(self, network: Any, mean: torch.Tensor, std: torch.Tensor) -> None:
        self._network, self._mean, self._std = network, mean, std
        self._colours = int(network.config.in_channels)

    @torch.inference_mode()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        out = self._network.encode(x.expand(-1, self._colours, -1, -1))
        z = out.latent if hasattr(out, "latent") else out.latent_dist.mode()
        normalised: torch.Tensor = (z - self._mean) / self._std
        return normalised

    @torch.inference_mode()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self._network.decode(z * self._std + self._mean).sample
        return x.mean(1, keepdim=True)


class _DiffusersDenoiser:
    """A conditional U-Net that predicts noise, velocity or the sample, with or without a gate."""

    def __init__(self, network: Any, steps: Schedule, prediction: str, latents: int) -> None:
        self._network, self._steps, self._prediction, self._latents = (
            network,
            steps,
            prediction,
            latents,
        )
        self.paired = int(network.config.in_channels) == 2 * latents

    def signal(self, t: int) -> tuple[float, float]:
        return float(self._steps.alpha[t]), float(self._steps.sigma[t])

    @torch.inference_mode()
    def claim(
        self, z_t: torch.Tensor, source: torch.Tensor | None, t: int, text: torch.Tensor
    ) -> Claim:
        seen = z_t
        if self.paired:
            seen = torch.cat([z_t, torch.zeros_like(z_t) if source is None else source], 1)
        out = self._network(seen, t, text).sample
        alpha, sigma = self.signal(t)
        z_0, eps = _clean_and_noise(self._prediction, z_t, out[:, : self._latents], alpha, sigma)
        gated = out.shape[1] == self._latents + 1
        return Claim(z_0=z_0, eps=eps, gate=out[:, -1:].sigmoid() if gated else None)


class _TransformersTextEncoder:
    """A BERT or CLIP text model; the states of prompts already seen are kept."""

    def __init__(self, network: Any, tokenizer: Any, tokens: int, device: torch.device) -> None:
        self._network, self._tokenizer, self._tokens = network, tokenizer, tokens
        self._device = device
        self._known: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        for prompt in prompts:
            if prompt not in self._known:
                self._known[prompt] = self._states(prompt)
        return torch.stack([self._known[prompt] for prompt in prompts])

    def _states(self, prompt: str) -> torch.Tensor:
        words = self._tokenizer(
            prompt,
            padding="max_length",
            truncation=True,
            max_length=self._tokens,
            return_tensors="pt",
        ).to(self._device)
        states: torch.Tensor = self._network(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).last_hidden_state[0]
        return states


def _autoencoder(folder: Path, said: Settings, device: torch.device) -> Autoencoder:
    kinds: dict[str, Any] = {"AutoencoderDC": AutoencoderDC, "AutoencoderKL": AutoencoderKL}
    name = _class_name(folder / "vae")
    if name not in kinds:
        raise ModelError(f"{folder / 'vae'}: {name} is none of {', '.join(kinds)}")
    network = _diffuser(kinds[name], folder / "vae", device)
    channels = int(network.config.latent_channels)
    scale = 1 / float(network.config.scaling_factor)
    shift = float(getattr(network.config, "shift_factor", None) or 0.0)
    mean = torch.tensor(said.latents_mean or (shift,) * channels, device=device).view(1, -1, 1, 1)
    std = torch.tensor(said.latents_std or (scale,) * channels, device=device).view(1, -1, 1, 1)
    return _DiffusersAutoencoder(network, mean, std)


def _denoiser(folder: Path, device: torch.device) -> Denoiser:
    network = _diffuser(UNet2DConditionModel, folder / "unet", device)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    kind = getattr(diffusers_schedulers, str(config.get("_class_name")), None)
    if kind is None:
        raise ModelError(f"{folder / 'scheduler'}: unknown scheduler {config.get('_class_name')}")
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ModelError(f"{folder / 'scheduler'}: unknown prediction_type {prediction!r}")
    latents = int(
        json.loads((folder / "vae" / "config.json").read_text("utf-8"))["latent_channels"]
    )
    if int(network.config.in_channels) not in (latents, 2 * latents):
        raise ModelError(
            f"{folder / 'unet'}: takes {network.config.in_channels} channels; the autoencoder has "
            f"{latents}, so {latents} or {2 * latents} (with the source beside) were expected"
        )
    # diffusers rescales to a zero terminal SNR with a floor of 2**-24; the config says which.
    products = kind.from_config(config).alphas_cumprod
    steps = (
        schedule.zero_terminal()
        if config.get("rescale_betas_zero_snr")
        else schedule.from_alphas_cumprod(products)
    )
    return _DiffusersDenoiser(network, steps, prediction, latents)


def _text_encoder(folder: Path, said: Settings, device: torch.device) -> TextEncoder:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    name = json.loads((folder / "text_encoder" / "config.json").read_text("utf-8"))[
        "architectures"
    ][0]
    kind: Any = CLIPTextModel if name.startswith("CLIP") else AutoModel
    network = kind.from_pretrained(
        folder / "text_encoder", use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    return _TransformersTextEncoder(network.to(device).eval(), tokenizer, said.tokens, device)


def _image_gate(path: Path) -> ImageGate | None:
    if not path.is_file():
        return None
    parts = load_file(path)
    classifier = ViewClassifier()
    prefix = "classifier."
    layers = {k.removeprefix(prefix): v.float() for k, v in parts.items() if k.startswith(prefix)}
    classifier.load_state_dict(layers)
    return ImageGate(
        classifier=classifier.eval(),
        gaussian=Gaussian(
            mean=parts["mean"].float().numpy(),
            axes=parts["axes"].float().numpy(),
            variances=parts["variances"].float().numpy(),
            residual=float(parts["residual"]),
        ),
        least_logit=float(parts["least_logit"]),
        limit=float(parts["limit"]),
    )


def save_image_gate(gate: ImageGate, path: Path) -> None:
    """The gate as `load` reads it."""
    gaussian = gate.gaussian
    plain = {"mean": gaussian.mean, "axes": gaussian.axes, "variances": gaussian.variances}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in plain.items()}
    numbers = {
        "residual": gaussian.residual,
        "least_logit": gate.least_logit,
        "limit": gate.limit,
    }
    tensors |= {name: torch.tensor(value) for name, value in numbers.items()}
    tensors |= {f"classifier.{k}": v for k, v in gate.classifier.state_dict().items()}
    save_file(tensors, path)


def _latent_prior(path: Path) -> LatentPrior | None:
    if not path.is_file():
        return None
    return LatentPrior(**{name: part.float() for name, part in load_file(path).items()})


def _lung_segmenter(path: Path) -> Segmenter | None:
    return load_segmenter(path) if path.is_file() else None


def load_segmenter(path: Path) -> Segmenter:
    """The segmenter kept at `path`."""
    model = Segmenter()
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return model.eval()


def _diffuser(kind: Any, folder: Path, device: torch.device) -> Any:
    """The diffusers network in `folder`, from safetensors only, in float32, from this disk only."""
    network = kind.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        torch_dtype=torch.float32,
        low_cpu_mem_usage=False,  # what it saves at start would need one more library
    )
    return network.to(device).eval()


def _class_name(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text("utf-8")).get("_class_name"))


def _clean_and_noise(
    prediction: str, z_t: torch.Tensor, out: torch.Tensor, alpha: float, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(z_0, eps) from what the network predicts (2202.00512, appendix D)."""
    if prediction == "v_prediction":
        return alpha * z_t - sigma * out, sigma * z_t + alpha * out
    if prediction == "sample":
        return out, (z_t - alpha * out) / max(sigma, 1e-8)
    return (z_t - sigma * out) / max(alpha, 1e-8), out
