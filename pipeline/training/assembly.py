"""Puts the finished parts of a work folder together to a model folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, DDIMScheduler, ModelMixin, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import BertModel

from pipeline import anatomy, digest, gates, settings
from pipeline.errors import DatasetError
from pipeline.gates import ImageGate, ViewClassifier
from pipeline.preprocess import GRID
from pipeline.settings import Settings
from pipeline.training import files, language_model, origins
from pipeline.training.bench import Bench
from pipeline.training.pictures import Films
from pipeline.weights import (
    IMAGE_GATE,
    LATENT_PRIOR,
    LESION_GATE,
    LUNG_SEGMENTER,
    WHOLE_LUNG,
    load_segmenter,
    save_image_gate,
)

MODEL_NAME = "vald-embedded"
_GATE_AXES = 48
_PRIOR_AXES, _PRIOR_FILMS = 32, 600
_GATE_KEEPS = 0.995  # share of held-out chest films that each look of the image gate lets pass
_SHARD = "15MB"


def assemble(bench: Bench, version: str) -> str:
    """`model/` of the work folder holds the finished parts in fp16 with settings and digests.

    Returns its digest. Its thresholds are not calibrated yet.

    Raises:
        DatasetError: a part has not been trained, or beside others than those here, or there are
            no films to set its limits on.
    """
    bench.demand("segmenter", "autoencoder", "language-model", "view", "diffusion")
    origins.demand_together(bench)
    with files.whole_folder(bench.work / "model") as folder:
        _put_together(bench, version, folder)
        return digest.write_digests(folder)


def _put_together(bench: Bench, version: str, folder: Path) -> None:
    _half(AutoencoderDC, bench.final("autoencoder"), folder / "vae")
    _half(UNet2DConditionModel, bench.final("diffusion"), folder / "unet")
    text = BertModel.from_pretrained(bench.text_encoder, local_files_only=True)
    text.half().save_pretrained(folder / "text_encoder")
    bench.tokenizer.save_pretrained(folder / "tokenizer")
    _scheduler().save_pretrained(folder / "scheduler")
    paired = "StableDiffusionInstructPix2PixPipeline"
    pipeline = paired if bench.is_paired else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(_INDEX % pipeline, encoding="utf-8")
    save_network(load_segmenter(bench.segmenter), folder / LUNG_SEGMENTER)
    if bench.is_paired:  # what reads an edit in pairs; an earlier U-Net's may lie there still
        _copy_beside(bench, folder)
    _write_gate(bench, folder / IMAGE_GATE)
    _write_prior(bench, folder / LATENT_PRIOR)
    settings.write(folder, _first_settings(bench, version))
    for path in folder.rglob("*"):  # safetensors are written for their owner only
        path.chmod(0o755 if path.is_dir() else 0o644)


def _copy_beside(bench: Bench, folder: Path) -> None:
    """What was trained to go with the edit, as far as there is any."""
    for made in (bench.work / "lesion-gate" / LESION_GATE, bench.work / "whole-lung" / WHOLE_LUNG):
        if made.exists():
            shutil.copy(made, folder / made.name)


def _half(kind: type[ModelMixin], trained: Path, folder: Path) -> None:
    """The trained network in fp16, in shards that stay small."""
    network = kind.from_pretrained(trained, use_safetensors=True, local_files_only=True)
    network.half().save_pretrained(folder, max_shard_size=_SHARD)
    config = folder / "config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    said.pop("_name_or_path", None)  # where it was trained is nobody's business
    config.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def save_network(model: torch.nn.Module, path: Path) -> None:
    """A network of our own in fp16 at `path`."""
    with files.whole(path) as scratch:
        save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, scratch)
    path.chmod(0o644)


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def _write_gate(bench: Bench, path: Path) -> None:
    """The image gate, its limits set on films that no part of it was fitted to."""
    classifier = ViewClassifier()
    classifier.load_state_dict(load_file(bench.work / "view" / IMAGE_GATE))
    gaussian = gates.fit(_thumbnails(bench.material.films), _GATE_AXES)
    open_gate = ImageGate(
        classifier=classifier.eval(), gaussian=gaussian, least_logit=-np.inf, limit=np.inf
    )
    held_out = [film.astype(np.float32) / 255 for film in bench.films_of("calibration", "val")]
    logits = [open_gate.logit(film) for film in held_out]
    distances = [gaussian.distance(film) for film in held_out]
    gate = replace(
        open_gate,
        least_logit=float(np.quantile(logits, 1 - _GATE_KEEPS)),
        limit=float(np.quantile(distances, _GATE_KEEPS)),
    )
    save_image_gate(gate, path)


def _write_prior(bench: Bench, path: Path) -> None:
    """The latents of adult normal films, their lungs moved to one place, as a Gaussian."""
    material = bench.material
    usable = [
        index
        for index, row in enumerate(material.rows)
        if row.label == "Normal"
        and not row.paediatric
        and anatomy.usable(material.lungs[index] > 0)
    ]
    if not usable:
        raise DatasetError("no Normal adult film of train in which both lungs are seen")
    some = np.random.default_rng(0).permutation(usable)[:_PRIOR_FILMS]
    place = anatomy.typical_place(material.lungs[some] > 0)
    z = torch.cat([_placed(bench, int(index), place) for index in some]).flatten(1)
    mean = z.mean(0)
    _, spread, axes = torch.linalg.svd(z - mean, full_matrices=False)
    sd = spread[:_PRIOR_AXES] / len(z) ** 0.5
    parts = {"mean": mean, "axes": axes[:_PRIOR_AXES], "sd": sd}
    save_file({name: part.half().contiguous() for name, part in parts.items()}, path)


def _placed(bench: Bench, index: int, place: np.ndarray) -> torch.Tensor:
    material = bench.material
    film = material.films[index].astype(np.float32) / 255
    moved = anatomy.move(film, material.lungs[index] > 0, place)
    return bench.encode(torch.from_numpy(moved)[None, None] * 2 - 1)


def _thumbnails(films: Films) -> np.ndarray:
    return np.stack([gates.thumbnail(film.astype(np.float32) / 255) for film in films])


def _first_settings(bench: Bench, version: str) -> Settings:
    return Settings(
        name=MODEL_NAME,
        version=version,
        grid=GRID,
        tokens=language_model.TOKENS,
        latents_mean=tuple(bench.latents.mean.tolist()),
        latents_std=tuple(bench.latents.std.tolist()),
        # What measured best of such a model: docs/decisions/0007-two-gates.md, 0010-whole-lungs.md.
        steps=2,
        draws=2,
        passes=4,
        whole_lung_passes=2,
    )


_INDEX = """{
 "_class_name": "%s",
 "vae": ["diffusers", "AutoencoderDC"],
 "unet": ["diffusers", "UNet2DConditionModel"],
 "text_encoder": ["transformers", "BertModel"],
 "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
 "scheduler": ["diffusers", "DDIMScheduler"]
}
"""
