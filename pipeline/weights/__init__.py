"""Loads a model folder; with its two rooms it alone imports diffusers and transformers
for inference."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import calibration, digest, fit, probe, shortage
from pipeline.calibration import HealthyReference
from pipeline.errors import ModelError
from pipeline.fit import Shapes
from pipeline.gates import ImageGate
from pipeline.lesion_gate import LesionGate
from pipeline.models import Autoencoder, Denoiser, TextEncoder
from pipeline.probe import Probe
from pipeline.segmenter import Segmenter
from pipeline.settings import Settings
from pipeline.weights import networks
from pipeline.weights.networks import Networks, latent_statistics, load_networks
from pipeline.weights.parts import (
    CLASSIFIER,
    FAULTS,
    IMAGE_GATE,
    LATENT_PRIOR,
    LESION_GATE,
    LUNG_SEGMENTER,
    RIVAL,
    WHOLE_LUNG,
    WITNESS,
    LatentPrior,
    in_one_line,
    load_adapter,
    load_image_gate,
    load_latent_prior,
    load_lesion_gate,
    load_segmenter,
    save_image_gate,
)

__all__ = [
    "CLASSIFIER",
    "IMAGE_GATE",
    "JUDGES",
    "LATENT_PRIOR",
    "LESION_GATE",
    "LUNG_SEGMENTER",
    "RIVAL",
    "WHOLE_LUNG",
    "WITNESS",
    "LatentPrior",
    "LoadedModel",
    "Networks",
    "choose_device",
    "latent_statistics",
    "load",
    "load_networks",
    "load_segmenter",
    "save_image_gate",
]

JUDGES = Path(__file__).parent.parent / "judges"
"""The networks that judge an edit: no part of any model, and of no model's digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model folder, ready on one device. The parts that a foreign folder lacks are None.

    `uncalibrated` is why no calibration stands behind its readings, empty if one does; `healthy` is
    None then.
    """

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
    uncalibrated: str


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
        made = networks.read_networks(folder, device)
        said = made.settings
        fit.demand_settings(folder, made.shapes, said)
        healthy = calibration.load(folder)
        if healthy is not None:
            fit.demand_reference(folder, said.grid, healthy.mean.shape)
        uncalibrated = calibration.doubt(healthy, said.words)
        return LoadedModel(
            settings=said,
            digest=found,
            device=device,
            autoencoder=networks.autoencoder(made, device),
            denoiser=networks.denoiser(made),
            text_encoder=networks.text_encoder(made, device),
            image_gate=load_image_gate(folder / IMAGE_GATE),
            latent_prior=load_latent_prior(folder / LATENT_PRIOR, _values(made.shapes, said.grid)),
            lung_segmenter=_lung_segmenter(folder / LUNG_SEGMENTER),
            lesion_gate=load_lesion_gate(folder / LESION_GATE),
            whole_lung=_whole_lung(folder, device),
            probe=probe.load(folder, made.heard),
            healthy=None if uncalibrated else healthy,
            uncalibrated=uncalibrated,
        )
    except FAULTS as fault:
        raise ModelError(f"{folder}: cannot be loaded: {in_one_line(fault)}") from fault


def _values(of: Shapes, grid: int) -> int:
    """How many values a latent of a film on the grid has."""
    return of.latents * (grid // of.scale) ** 2


def _whole_lung(folder: Path, device: torch.device) -> Denoiser | None:
    path = folder / WHOLE_LUNG
    if not path.is_file():
        return None
    adapter = load_adapter(path)
    try:
        return networks.adapted(folder, device, adapter)
    except FAULTS as fault:  # the U-Net itself has been loaded before
        raise ModelError(f"{path}: cannot be loaded: {in_one_line(fault)}") from fault


def _lung_segmenter(path: Path) -> Segmenter | None:
    return load_segmenter(path) if path.is_file() else None
