"""Loads a diffusers folder; alone imports diffusers and transformers for inference."""

from collections.abc import Mapping, Sequence
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

from pipeline import (
    calibration,
    digest,
    fit,
    gates,
    lesion_gate,
    probe,
    schedule,
    settings,
    shortage,
)
from pipeline.calibration import HealthyReference
from pipeline.errors import ModelError
from pipeline.fit import Shapes
from pipeline.gates import Gaussian, ImageGate, ViewClassifier
from pipeline.lesion_gate import LesionGate
from pipeline.models import Autoencoder, Claim, Denoiser, TextEncoder
from pipeline.probe import Probe
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
LESION_GATE = "lesion_gate.safetensors"
WHOLE_LUNG = "whole_lung.safetensors"
CLASSIFIER = "classifier.safetensors"
WITNESS = "witness.safetensors"
RIVAL = "lesion_segmenter.safetensors"
_LAYERS = "classifier."
"""What the names of the image gate's layers begin with; those of its Gaussian do not."""
_FAULTS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError,
)  # fmt: skip
"""What the libraries make of a file that is damaged or says what they do not expect."""
_NOT_USED = ("pooler.", "cls.", "lm_head.", "text_projection.")
"""Parts of a text encoder after its last states, which checkpoints may lack or have beside it."""
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
    lesion_gate: LesionGate | None
    whole_lung: Denoiser | None
    probe: Probe | None
    healthy: HealthyReference | None


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


def choose_device(wish: str) -> torch.device:
    """The device named, or for "auto" the best one of this machine: cuda, mps, cpu.

    Raises:
        ModelError: the machine has no such device.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        return torch.device(next(name for name, there in has.items() if there))
    try:
        device = torch.device(wish)
    except RuntimeError:  # no device at all, in torch's words
        device = None
    if device is None or not has.get(device.type, False) or (device.index or 0) >= _count(device):
        raise ModelError(f"device {wish!r}: this machine has {', '.join(n for n in has if has[n])}")
    return device


def _count(device: torch.device) -> int:
    return torch.cuda.device_count() if device.type == "cuda" else 1


@shortage.told("the model was not loaded")
def load(folder: Path, device: torch.device) -> LoadedModel:
    """The model in `folder`, its files checked against digests.json, on `device`.

    Raises:
        ModelError: a part is missing, damaged, pickled or of an unknown form.
        ShortageError: memory, file handles or the device are wanting now.
    """
    found = digest.model_digest(folder)
    try:
        made = _networks(folder, device)
        said = made.settings
        fit.demand_settings(folder, made.shapes, said)
        healthy = calibration.load(folder)
        if healthy is not None:
            fit.demand_reference(folder, said.grid, healthy.mean.shape)
        return LoadedModel(
            settings=said,
            digest=found,
            device=device,
            autoencoder=_autoencoder(made, device),
            denoiser=_DiffusersDenoiser(made.unet, made.steps, made.prediction, made.latents),
            text_encoder=_TransformersTextEncoder(
                made.text_encoder, made.tokenizer, said.tokens, device
            ),
            image_gate=_image_gate(folder / IMAGE_GATE),
            latent_prior=_latent_prior(folder / LATENT_PRIOR, _values(made.shapes, said.grid)),
            lung_segmenter=_lung_segmenter(folder / LUNG_SEGMENTER),
            lesion_gate=_lesion_gate(folder / LESION_GATE),
            whole_lung=_whole_lung(folder, device),
            probe=probe.load(folder, _heard(made.unet)),
            healthy=healthy,
        )
    except _FAULTS as fault:
        raise ModelError(f"{folder}: cannot be loaded: {_in_one_line(fault)}") from fault


def _in_one_line(fault: Exception) -> str:
    """What a library says, in paragraphs."""
    return " ".join(str(fault).split())


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
        return _networks(folder, device)
    except _FAULTS as fault:
        raise ModelError(f"{folder}: cannot be loaded: {_in_one_line(fault)}") from fault


def _networks(folder: Path, device: torch.device) -> Networks:
    said = settings.read(folder)
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


def _heard(unet: Any) -> int:
    """Channels that the middle and upper blocks give out, all together."""
    blocks = tuple(map(int, unet.config.block_out_channels))
    return sum(blocks) + (blocks[-1] if unet.mid_block is not None else 0)


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


def _autoencoder(made: Networks, device: torch.device) -> Autoencoder:
    mean, std = latent_statistics(made.autoencoder, made.settings, device)
    return _DiffusersAutoencoder(made.autoencoder, mean, std)


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
    return _diffuser(kinds[_class_name(folder / "vae")], folder / "vae", device)


def _whole_lung(folder: Path, device: torch.device) -> Denoiser | None:
    path = folder / WHOLE_LUNG
    if not path.is_file():
        return None
    adapter = _adapter(path)
    try:
        return _adapted(folder, device, adapter)
    except _FAULTS as fault:  # the U-Net itself has been loaded before
        raise ModelError(f"{path}: cannot be loaded: {_in_one_line(fault)}") from fault


def _adapter(path: Path) -> dict[str, torch.Tensor]:
    """The two halves (A and B) of every layer's change; one without the other would be random."""
    parts = _tensors(path)
    other = {"lora_A": "lora_B", "lora_B": "lora_A"}
    halves = {name: name.split(".")[-2] for name in parts if name.count(".") > 1}
    wanted = {name.replace(half, other.get(half, half)) for name, half in halves.items()}
    unknown = {name for name in parts if halves.get(name) not in other}
    fit.demand_whole(path, wanted - parts.keys(), unknown)
    return parts


def _adapted(folder: Path, device: torch.device, adapter: dict[str, torch.Tensor]) -> Denoiser:
    """A second of the folder's U-Net, which an adapter has become part of (LoRA)."""
    network = _diffuser(UNet2DConditionModel, folder / "unet", device)
    whole = {name: part.float() for name, part in adapter.items()}
    network.load_lora_adapter(whole, prefix=None)
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
    prediction = str(config.get("prediction_type", "epsilon"))
    fit.demand_known(folder, _class_name(folder / "vae"), prediction)
    if config.get("rescale_betas_zero_snr"):
        # diffusers rescales with a floor of 2**-24; ours ends in noise alone.
        return schedule.zero_terminal(), prediction
    signal = getattr(kind.from_config(config), "alphas_cumprod", None)
    if signal is None or len(signal) != schedule.TRAIN_STEPS or not torch.isfinite(signal).all():
        raise ModelError(
            f"{folder / 'scheduler'}: {config['_class_name']} gives no noise schedule of "
            f"{schedule.TRAIN_STEPS} steps, such as Stable Diffusion's"
        )
    return schedule.from_alphas_cumprod(signal), prediction


def _text_networks(folder: Path, device: torch.device) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    config = digest.read_object(folder / "text_encoder" / "config.json")
    name = str(config["architectures"][0])
    kind: Any = CLIPTextModel if name.startswith("CLIP") else AutoModel
    network, said = kind.from_pretrained(
        folder / "text_encoder",
        use_safetensors=True,
        local_files_only=True,
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


def _image_gate(path: Path) -> ImageGate | None:
    if not path.is_file():
        return None
    parts, classifier = _tensors(path), ViewClassifier()
    fit.demand_shapes(path, parts, _gate_shapes(classifier, _axes_in(parts)))
    layers = {k.removeprefix(_LAYERS): v.float() for k, v in parts.items() if k.startswith(_LAYERS)}
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


def _gate_shapes(classifier: ViewClassifier, axes: int) -> dict[str, tuple[int, ...]]:
    """What an image gate's file holds whose Gaussian has so many axes."""
    d = gates.THUMBNAIL**2
    gaussian: dict[str, tuple[int, ...]] = {"mean": (d,), "axes": (axes, d), "variances": (axes,)}
    numbers: dict[str, tuple[int, ...]] = dict.fromkeys(("residual", "least_logit", "limit"), ())
    layers = {f"{_LAYERS}{name}": shape for name, shape in _shapes_of(classifier).items()}
    return gaussian | numbers | layers


def _axes_in(parts: Mapping[str, torch.Tensor]) -> int:
    """How many axes a Gaussian in a file has: as many as it was fitted with."""
    axes = parts.get("axes")
    return axes.shape[0] if axes is not None and axes.ndim else 0


def _shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(part.shape) for name, part in network.state_dict().items()}


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
    tensors |= {f"{_LAYERS}{k}": v for k, v in gate.classifier.state_dict().items()}
    save_file(tensors, path)


def _values(of: Shapes, grid: int) -> int:
    """How many values a latent of a film on the grid has."""
    return of.latents * (grid // of.scale) ** 2


def _latent_prior(path: Path, d: int) -> LatentPrior | None:
    """The prior at `path`, of latents of d values."""
    if not path.is_file():
        return None
    parts = _tensors(path)
    k = _axes_in(parts)
    fit.demand_shapes(path, parts, {"mean": (d,), "axes": (k, d), "sd": (k,)})
    return LatentPrior(**{name: part.float() for name, part in parts.items()})


def _lung_segmenter(path: Path) -> Segmenter | None:
    return load_segmenter(path) if path.is_file() else None


def load_segmenter(path: Path) -> Segmenter:
    """The segmenter kept at `path`.

    Raises:
        ModelError: the file is damaged, or of another network.
    """
    return _filled(Segmenter(), path)


def _lesion_gate(path: Path) -> LesionGate | None:
    return LesionGate(_filled(lesion_gate.build(), path)) if path.is_file() else None


def _filled(network: Segmenter, path: Path) -> Segmenter:
    parts = _tensors(path)
    fit.demand_shapes(path, parts, _shapes_of(network))
    network.load_state_dict({name: part.float() for name, part in parts.items()})
    return network.eval()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors, all of them numbers.

    Raises:
        ModelError: it cannot be read, is no safetensors, or holds what is no number.
    """
    try:
        parts = load_file(path)
    except _FAULTS as fault:
        raise ModelError(f"{path}: cannot be loaded: {_in_one_line(fault)}") from fault
    fit.demand_finite(path, parts)
    return parts


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


def _class_name(folder: Path) -> str:
    return str(digest.read_object(folder / "config.json").get("_class_name"))
