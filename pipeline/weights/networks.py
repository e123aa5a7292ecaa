"""The networks of a diffusers folder, as diffusers and transformers know them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, UNet2DConditionModel
from diffusers import schedulers as diffusers_schedulers
from diffusers.utils import logging as diffusers_logging
from transformers import AutoModel, AutoTokenizer, CLIPTextModel
from transformers.utils import logging as transformers_logging

from pipeline import digest, fit, schedule, settings, shortage
from pipeline.errors import ModelError
from pipeline.fit import Shapes
from pipeline.folder import demand_widths
from pipeline.models import Autoencoder, Claim, Denoiser, TextEncoder
from pipeline.schedule import Schedule
from pipeline.settings import Settings
from pipeline.weights.parts import FAULTS, in_one_line

# Their progress bars and advice are not for the log of a service.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()

_NOT_USED = ("pooler.", "cls.", "lm_head.", "text_projection.")
"""Parts of a text encoder after its last states, which checkpoints may lack or have beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """A folder's networks as their libraries know them, for whoever trains them further.

    `steps` and `prediction` are the scheduler's; `settings` is what the folder says of itself.
    """

    settings: Settings
    shapes: Shapes

    autoencoder: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    steps: Schedule
    prediction: str

    @property
    def latents(self) -> int:
        """The autoencoder's channels."""
        return self.shapes.latents

    @property
    def heard(self) -> int:
        """Channels that the U-Net's middle and upper blocks give out, all together."""
        blocks = tuple(map(int, self.unet.config.block_out_channels))
        return sum(blocks) + (blocks[-1] if self.unet.mid_block is not None else 0)


@shortage.told("the model was not loaded")
def load_networks(folder: Path, device: torch.device) -> Networks:
    """The networks in a diffusers folder of Stable Diffusion's class, from safetensors only, its
    files checked against digests.json where it has one.

    Raises:
        ModelError: a part is missing, damaged, pickled or of an unknown form, or does not fit the
            others.
        ShortageError: memory, file handles or the device are wanting now.
    """
    digest.model_digest(folder)
    try:
        return read_networks(folder, device)
    except FAULTS as fault:
        raise ModelError(f"{folder}: cannot be loaded: {in_one_line(fault)}") from fault


def read_networks(folder: Path, device: torch.device) -> Networks:
    """The networks in `folder`, whose digest was looked at; `FAULTS` are raised as they come."""
    said = settings.read(folder)
    demand_widths(folder)
    steps, prediction = _scheduler(folder)
    autoencoder = _autoencoder_network(folder, device)
    text_encoder, tokenizer = _text_networks(folder, device)
    unet = _diffuser(UNet2DConditionModel, folder / "unet", device)
    shapes = _shapes(autoencoder, unet, text_encoder)
    fit.demand_parts(folder, shapes)
    fit.demand_latents(folder, shapes.latents, said)
    return Networks(
        settings=said,
        shapes=shapes,
        autoencoder=autoencoder,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        steps=steps,
        prediction=prediction,
    )


def _shapes(autoencoder: Any, unet: Any, text_encoder: Any) -> Shapes:
    stages = "encoder_block_out_channels"
    if stages not in autoencoder.config:
        stages = "block_out_channels"
    return Shapes(
        latents=int(autoencoder.config.latent_channels),
        scale=2 ** (len(autoencoder.config[stages]) - 1),
        takes=int(unet.config.in_channels),
        gives=int(unet.config.out_channels),
        attends=int(unet.config.cross_attention_dim),
        width=int(text_encoder.config.hidden_size),
        positions=int(text_encoder.config.max_position_embeddings),
    )


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
        self._heard: list[torch.Tensor] = []
        for block in filter(None, (network.mid_block, *network.up_blocks)):
            block.register_forward_hook(self._hear)

    def _hear(self, _block: Any, _given: Any, states: torch.Tensor) -> None:
        self._heard.append(states)

    def signal(self, t: int) -> tuple[float, float]:
        return float(self._steps.alpha[t]), float(self._steps.sigma[t])

    @torch.inference_mode()
    def claim(
        self, z_t: torch.Tensor, source: torch.Tensor | None, t: int, text: torch.Tensor
    ) -> Claim:
        seen = z_t
        if self.paired:
            seen = torch.cat([z_t, torch.zeros_like(z_t) if source is None else source], 1)
        self._heard = []
        out = self._network(seen, t, text).sample
        states, self._heard = tuple(self._heard), []
        alpha, sigma = self.signal(t)
        z_0, eps = schedule.clean_and_noise(
            self._prediction, z_t, out[:, : self._latents], alpha, sigma
        )
        gated = out.shape[1] == self._latents + 1
        gate = out[:, -1:].sigmoid() if gated else None
        return Claim(z_0=z_0, eps=eps, gate=gate, states=states)


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


def autoencoder(made: Networks, device: torch.device) -> Autoencoder:
    """The autoencoder, for inference."""
    mean, std = latent_statistics(made.autoencoder, made.settings, device)
    return _DiffusersAutoencoder(made.autoencoder, mean, std)


def denoiser(made: Networks) -> Denoiser:
    """The U-Net with its schedule, for inference."""
    return denoiser_of(made.unet, made.steps, made.prediction, made.latents)


def denoiser_of(unet: Any, steps: Schedule, prediction: str, latents: int) -> Denoiser:
    """A U-Net that predicts so, for inference: paired where it takes twice the latents' channels,
    with a gate where it gives one channel more than they have.
    """
    return _DiffusersDenoiser(unet, steps, prediction, latents)


def text_encoder(made: Networks, device: torch.device) -> TextEncoder:
    """The text encoder with its tokenizer, for inference."""
    tokens = made.settings.tokens
    return _TransformersTextEncoder(made.text_encoder, made.tokenizer, tokens, device)


def latent_statistics(
    network: Any, said: Settings, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and SD that latents are normalised by, each [1, c, 1, 1]: ours, or the checkpoint's."""
    channels = int(network.config.latent_channels)
    scale = 1 / float(network.config.scaling_factor)
    shift = float(getattr(network.config, "shift_factor", None) or 0.0)
    mean = torch.tensor(said.latents_mean or (shift,) * channels, device=device)
    std = torch.tensor(said.latents_std or (scale,) * channels, device=device)
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def _autoencoder_network(folder: Path, device: torch.device) -> Any:
    kinds: dict[str, Any] = {"AutoencoderDC": AutoencoderDC, "AutoencoderKL": AutoencoderKL}
    config = digest.read_object(folder / "vae" / "config.json")
    fit.demand_autoencoder(folder, config)
    return _diffuser(kinds[str(config["_class_name"])], folder / "vae", device)


def adapted(folder: Path, device: torch.device, adapter: dict[str, torch.Tensor]) -> Denoiser:
    """A second of the folder's U-Net, which an adapter has become part of (LoRA)."""
    network = _diffuser(UNet2DConditionModel, folder / "unet", device)
    network.load_lora_adapter(dict(adapter), prefix=None)
    network.fuse_lora()
    network.unload_lora()
    latents = int(digest.read_object(folder / "vae" / "config.json")["latent_channels"])
    steps, prediction = _scheduler(folder)
    return _DiffusersDenoiser(network, steps, prediction, latents)


def _scheduler(folder: Path) -> tuple[Schedule, str]:
    """The folder's noise schedule and what its U-Net predicts."""
    config = digest.read_object(folder / "scheduler" / "scheduler_config.json")
    kind = getattr(diffusers_schedulers, str(config.get("_class_name")), None)
    if kind is None:
        raise ModelError(f"{folder / 'scheduler'}: unknown scheduler {config.get('_class_name')}")
    prediction = fit.demand_schedule(folder, config)
    signal = _signal(kind, config)
    if signal is None or not _is_schedule(signal):
        raise ModelError(
            f"{folder / 'scheduler'}: {config['_class_name']} gives no noise schedule of "
            f"{schedule.TRAIN_STEPS} steps, such as Stable Diffusion's"
        )
    if config.get("rescale_betas_zero_snr"):
        signal = schedule.ended_in_noise(signal)
    return schedule.from_alphas_cumprod(signal), prediction


def _signal(kind: Any, config: Mapping[str, Any]) -> torch.Tensor | None:
    """alpha_t^2; None where the scheduler has none, or of another number of steps."""
    if config.get("num_train_timesteps", schedule.TRAIN_STEPS) != schedule.TRAIN_STEPS:
        return None  # and is not built, as there may be any number
    # Rescaled by us: some of diffusers' schedulers leave a signal of 2**-24 at the end.
    plain = kind.from_config({**config, "rescale_betas_zero_snr": False})
    return getattr(plain, "alphas_cumprod", None)


def _is_schedule(signal: torch.Tensor) -> bool:
    """alpha_t^2 of every step: a share of the film, which noise takes away more and more."""
    if len(signal) != schedule.TRAIN_STEPS or not torch.isfinite(signal).all():
        return False
    within = bool((signal >= 0).all()) and bool((signal <= 1).all())
    return within and bool((signal.diff() <= 0).all()) and bool(signal[-1] < signal[0])


def _text_networks(folder: Path, device: torch.device) -> tuple[Any, Any]:
    # Left out, trust_remote_code means that whoever sits at the terminal is asked.
    tokenizer = AutoTokenizer.from_pretrained(
        folder / "tokenizer", local_files_only=True, trust_remote_code=False
    )
    config = digest.read_object(folder / "text_encoder" / "config.json")
    name = str(config["architectures"][0])
    kind: Any = CLIPTextModel if name.startswith("CLIP") else AutoModel
    network, said = kind.from_pretrained(
        folder / "text_encoder",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    _demand_sound(folder / "text_encoder", network, said, not_used=_NOT_USED)
    return network.to(device).eval(), tokenizer


def _demand_sound(
    folder: Path, network: Any, said: Mapping[str, Any], not_used: tuple[str, ...] = ()
) -> None:
    """The libraries fill with random numbers what a file lacks, and leave out what they do not
    know: both would go on, to a map of nothing."""
    missing, unknown = (
        {name for name in said[which] if not any(part in name for part in not_used)}
        for which in ("missing_keys", "unexpected_keys")
    )
    fit.demand_whole(folder, missing, unknown)
    fit.demand_finite(folder, network.state_dict())


def _diffuser(kind: Any, folder: Path, device: torch.device) -> Any:
    """The diffusers network in `folder`, from safetensors only, in float32, from this disk only."""
    network, said = kind.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        torch_dtype=torch.float32,
        low_cpu_mem_usage=False,  # what it saves at start would need one more library
        output_loading_info=True,
    )
    _demand_sound(folder, network, said)
    return network.to(device).eval()
