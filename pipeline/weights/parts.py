"""The parts of a model folder that are one safetensors file each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline import fit, gates, lesion_gate
from pipeline.errors import ModelError
from pipeline.gates import Gaussian, ImageGate, ViewClassifier
from pipeline.lesion_gate import LesionGate
from pipeline.segmenter import Segmenter

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
FAULTS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    SafetensorError,
)  # fmt: skip
"""What the libraries make of a file that is damaged or says what they do not expect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentPrior:
    """Normal films' latents as a Gaussian: `mean` [d], `axes` [k, d] orthonormal, `sd` [k]."""

    mean: torch.Tensor
    axes: torch.Tensor
    sd: torch.Tensor


def load_segmenter(path: Path) -> Segmenter:
    """The segmenter kept at `path`.

    Raises:
        ModelError: the file is damaged, or of another network.
    """
    return _filled(Segmenter(), path)


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


def load_image_gate(path: Path) -> ImageGate | None:
    """The image gate at `path`, if there is one.

    Raises:
        ModelError: the file is damaged, or of another form.
    """
    if not path.is_file():
        return None
    parts, classifier = _tensors(path), ViewClassifier()
    fit.demand_shapes(path, parts, _gate_shapes(classifier, _axes_in(parts)))
    layers = {k.removeprefix(_LAYERS): v for k, v in parts.items() if k.startswith(_LAYERS)}
    classifier.load_state_dict(layers)
    return ImageGate(
        classifier=classifier.eval(),
        gaussian=Gaussian(
            mean=parts["mean"].numpy(),
            axes=parts["axes"].numpy(),
            variances=parts["variances"].numpy(),
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


def load_latent_prior(path: Path, d: int) -> LatentPrior | None:
    """The prior at `path`, of latents of d values, if there is one.

    Raises:
        ModelError: the file is damaged, or of another form.
    """
    if not path.is_file():
        return None
    parts = _tensors(path)
    k = _axes_in(parts)
    fit.demand_shapes(path, parts, {"mean": (d,), "axes": (k, d), "sd": (k,)})
    return LatentPrior(**parts)


def _filled(network: Segmenter, path: Path) -> Segmenter:
    parts = _tensors(path)
    fit.demand_shapes(path, parts, _shapes_of(network))
    network.load_state_dict(parts)
    return network.eval()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors in float32, all of them numbers, as they are used.

    Raises:
        ModelError: it cannot be read, is no safetensors, or holds what is no number.
    """
    try:
        parts = {name: part.float() for name, part in load_file(path).items()}
    except FAULTS as fault:
        raise ModelError(f"{path}: cannot be loaded: {in_one_line(fault)}") from fault
    fit.demand_finite(path, parts)
    return parts


def in_one_line(fault: Exception) -> str:
    """What a library says, in paragraphs."""
    return " ".join(str(fault).split())


def load_lesion_gate(path: Path) -> LesionGate | None:
    """The lesion gate at `path`, if there is one.

    Raises:
        ModelError: the file is damaged, or of another network.
    """
    return LesionGate(_filled(lesion_gate.build(), path)) if path.is_file() else None


def load_adapter(path: Path) -> dict[str, torch.Tensor]:
    """The two halves (A and B) of every layer's change; one without the other would be random.

    Raises:
        ModelError: the file is damaged, or lacks a half.
    """
    parts = _tensors(path)
    other = {"lora_A": "lora_B", "lora_B": "lora_A"}
    halves = {name: name.split(".")[-2] for name in parts if name.count(".") > 1}
    wanted = {name.replace(half, other.get(half, half)) for name, half in halves.items()}
    unknown = {name for name in parts if halves.get(name) not in other}
    fit.demand_whole(path, wanted - parts.keys(), unknown)
    return parts
