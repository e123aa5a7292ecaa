"""The order of work: from data folders to a model folder, each step resumable by itself.

A data folder holds `cxr256/` (manifest.csv and archives), `localised/` (boxes, lung outlines) and
`reports/`; a work folder gets one folder a step and, from `assemble`, the finished `model/`.
"""

import itertools
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import BertModel, PreTrainedTokenizerFast

from pipeline import anatomy, digest, gates, prompts, settings, weights
from pipeline.errors import DatasetError
from pipeline.gates import ImageGate, ViewClassifier
from pipeline.preprocess import GRID
from pipeline.schedule import TRAIN_STEPS
from pipeline.segmenter import Segmenter
from pipeline.settings import Settings
from pipeline.training import (
    autoencoder,
    calibrate,
    classifier,
    dataset,
    diffusion,
    finetune,
    language_model,
    lesion_gate,
    pairs,
    plots,
    rival,
    segmenter,
    view,
)
from pipeline.training.dataset import FilmRow, Films, LocalisedRow
from pipeline.training.finetune import Plan
from pipeline.training.lesion_gate import Taught
from pipeline.training.pairs import Counts, Material, Pool, Sample
from pipeline.training.session import Progress, Recipe
from pipeline.types import Image
from pipeline.weights import (
    CLASSIFIER,
    IMAGE_GATE,
    LATENT_PRIOR,
    LESION_GATE,
    LUNG_SEGMENTER,
    RIVAL,
    load_segmenter,
    save_image_gate,
)

MODEL_NAME = "vald-embedded"
_STATISTICS_FILMS = 512
_GATE_AXES = 48
_PRIOR_AXES, _PRIOR_FILMS = 32, 600
_GATE_KEEPS = 0.995  # share of held-out chest films that each look of the image gate lets pass
_SHARD = "15MB"
_TUNING_BATCH = 32
_SHOWN = 6
_NOTHING_ELSE = {"pasted": 0, "boxed": 0, "healthy": 0, "labelled": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """Per-channel mean and SD of the training films' latents, each [channels]."""

    mean: torch.Tensor
    std: torch.Tensor

    def normalised(self, z: torch.Tensor) -> torch.Tensor:
        """Latents of mean 0 and SD 1."""
        return (z - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)


class Workshop:
    """Trains the parts of a model from `data` into `work` on `device`."""

    def __init__(
        self, *, data: Path, work: Path, device: str, seed: int, progress: Progress
    ) -> None:
        self._data, self._work = data, work
        self._device, self._seed, self._progress = device, seed, progress

    def train_autoencoder(self, minutes: float) -> list[float]:
        """The autoencoder is trained on the films of train; returns the PSNR of val, in dB."""
        recipe = self._recipe(minutes, batch=16, learning_rate=1.5e-3)
        films = self.material.films
        model = autoencoder.train(films, recipe, self._work / "autoencoder", self._progress)
        model.save_pretrained(self._work / "autoencoder" / "final")
        held_out = self.films_of("val")
        self._picture_round_trips(held_out[:: max(1, len(held_out) // _SHOWN)][:_SHOWN])
        return autoencoder.psnr(model, held_out, self._device)

    def train_segmenter(self, minutes: float) -> None:
        """The lung segmenter is trained on the films that have lung outlines."""
        recipe = self._recipe(minutes, batch=8, learning_rate=2e-3, warmup_steps=50)
        films, masks = self._outlined()
        model = segmenter.train(films, masks, recipe, self._work / "segmenter", self._progress)
        save_file(model.state_dict(), self._work / "segmenter" / LUNG_SEGMENTER)

    def train_view(self, minutes: float) -> None:
        """The image gate's classifier is trained on the films of train."""
        recipe = self._recipe(minutes, batch=64, learning_rate=2e-3, warmup_steps=50)
        model = view.train(self.material.films, recipe, self._work / "view", self._progress)
        save_file(model.state_dict(), self._work / "view" / IMAGE_GATE)

    def train_language_model(self, minutes: float) -> None:
        """The text encoder and its tokenizer are trained on the reports and the prompts."""
        folder = self._work / "language-model"
        sentences = language_model.read_reports(self._data / "reports" / "indiana_reports.csv")
        texts = [*sentences, *(lesson.text for lesson in language_model.templates())]
        tokenizer = language_model.train_tokenizer(texts, folder / "tokenizer")
        recipe = self._recipe(minutes, batch=96, learning_rate=6e-4)
        model = language_model.train(sentences, tokenizer, recipe, folder, self._progress)
        model.encoder.save_pretrained(folder / "text_encoder")

    def train_diffusion(self, minutes: float, counts: Counts) -> None:
        """The U-Net is trained on a pool of pairs, made first where the run has none yet."""
        folder = self._work / "diffusion"
        folder.mkdir(parents=True, exist_ok=True)
        maker = pairs.PairMaker(self.material, self._seed)
        pool = pairs.make_pool(
            maker,
            counts,
            self._encode,
            folder / "pool.safetensors",
            lambda text: self._progress(0.0, text),
        )
        recipe = self._recipe(minutes, batch=32, learning_rate=5e-4)
        model = diffusion.train(
            pool, self.embeddings(pool.captions), recipe, folder, self._progress
        )
        model.save_pretrained(folder / "final")
        self._picture_edits(model, pool)

    def fine_tune(self, base: Path, plan: Plan, minutes: float, counts: Counts) -> Path:
        """`fine-tuned/` is a model folder made of `base` by the plan; returns where it lies.

        Raises:
            ModelError: `base` cannot be loaded, or its parts do not fit each other.
        """
        folder = self._work / "fine-tuning"
        folder.mkdir(parents=True, exist_ok=True)
        networks = weights.load_networks(base, torch.device(self._device))
        grid = int(networks.unet.config.sample_size) * 8
        pool = pairs.make_pool(
            pairs.PairMaker(self.material, self._seed),
            counts,
            finetune.encoder_of(networks, grid, self._device),
            folder / "pool.safetensors",
            lambda text: self._progress(0.0, text),
        )
        recipe = self._recipe(minutes, batch=_TUNING_BATCH, learning_rate=1e-5)
        tuned = finetune.train(networks, plan, pool, recipe, folder, self._progress)
        said = replace(settings.read(base), name=base.name, version="fine-tuned", grid=grid)
        finetune.write(tuned, networks, plan, base, self._work / "fine-tuned", said)
        return self._work / "fine-tuned"

    def train_classifier(self, minutes: float) -> None:
        """The independent classifier, a judge of edits, is trained on the films of train."""
        recipe = self._recipe(minutes, batch=48, learning_rate=2e-3, warmup_steps=100)
        folder = self._work / "classifier"
        model = classifier.train(self.material, recipe, folder, self._progress)
        save_network(model, self._work / "judges" / CLASSIFIER)

    def train_gate(self, minutes: float, counts: Counts) -> None:
        """The second gate is trained: half of the time on pairs, boxes and labels, half on these
        and on real films where it and the U-Net's gate agree.
        """
        folder = self._work / "lesion-gate"
        maker = pairs.PairMaker(self.material, self._seed, framed=1.0)
        taught = lesion_gate.lessons(maker.samples(replace(counts, abnormal=0)))
        recipe = self._recipe(minutes / 2, batch=32, learning_rate=2e-3, warmup_steps=100)
        first = lesion_gate.train(taught, recipe, folder / "first", self._progress)
        real = maker.samples(Counts(abnormal=counts.abnormal, **_NOTHING_ELSE))
        taught.append(self._agreed(first, real))
        model = lesion_gate.train(taught, recipe, folder / "second", self._progress, first)
        save_network(model, folder / LESION_GATE)

    def _agreed(self, gate: Segmenter, samples: Iterator[Sample]) -> Taught:
        """What the gate and the U-Net's agree on of real films with a finding."""
        unet = UNet2DConditionModel.from_pretrained(self._work / "diffusion" / "final").eval()
        films, ours, theirs = [], [], []
        for batch in pairs.chunks(samples):
            source = self._encode(pairs.signed([sample.source for sample in batch]))
            normal = [prompts.load().normal_prompts(sample.view)[0] for sample in batch]
            small = torch.stack([lesion_gate.halved(sample.source) for sample in batch])
            films.append(small)
            ours.append(lesion_gate.told(gate, small))
            open_to = self._answers(unet, source, normal)[:, -1:].sigmoid()
            theirs.append(functional.interpolate(open_to, small.shape[1:], mode="bilinear")[:, 0])
        return lesion_gate.agreed(torch.cat(films), torch.cat(ours), torch.cat(theirs))

    def train_rival(self, minutes: float, counts: Counts) -> None:
        """The plain segmenter is trained on pairs as the edit's gate is, but on others."""
        folder = self._work / "rival"
        maker = pairs.PairMaker(self.material, self._seed + 1)
        taught = rival.lessons(maker, counts)
        recipe = self._recipe(minutes, batch=24, learning_rate=2e-3, warmup_steps=100)
        model = rival.train(taught, recipe, folder, self._progress)
        save_network(model, self._work / "judges" / RIVAL)

    def assemble(self, version: str) -> str:
        """`model/` holds the finished parts in fp16 with settings and digests; returns its digest.

        Its thresholds are not calibrated yet.
        """
        folder, final = self._work / "model", "final"
        _half(autoencoder.build(), self._work / "autoencoder" / final, folder / "vae")
        _half(diffusion.build(), self._work / "diffusion" / final, folder / "unet")
        text = BertModel.from_pretrained(self._work / "language-model" / "text_encoder")
        text.half().save_pretrained(folder / "text_encoder")
        self._tokenizer.save_pretrained(folder / "tokenizer")
        _scheduler().save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text(_INDEX, encoding="utf-8")
        save_network(load_segmenter(self._segmenter), folder / LUNG_SEGMENTER)
        second = self._work / "lesion-gate" / LESION_GATE
        if second.exists():
            shutil.copy(second, folder / LESION_GATE)
        self._write_gate(folder / IMAGE_GATE)
        self._write_prior(folder / LATENT_PRIOR)
        settings.write(folder, self._first_settings(version))
        for path in folder.rglob("*"):  # safetensors are written for their owner only
            path.chmod(0o755 if path.is_dir() else 0o644)
        return digest.write_digests(folder)

    def calibrate(self, films: int) -> Settings:
        """`model/` says thresholds from so many films of the split calibration (0: all).

        Its probability is learnt from them and the adult films with findings of val.
        """
        healthy = self.films_of("calibration")
        order = np.random.default_rng(self._seed).permutation(len(healthy))[: films or None]
        rows = [r for r in self.rows if r.split == "val" and r.label != "Normal"]
        sick = self._films([row for row in rows if not row.paediatric])
        folder = self._work / "model"
        return calibrate.calibrate(
            folder,
            weights.load(folder, torch.device(self._device)),
            [healthy[i].astype(np.float32) / 255 for i in order],
            [film.astype(np.float32) / 255 for film in sick],
            self._progress,
        )

    @cached_property
    def rows(self) -> list[FilmRow]:
        """The manifest."""
        return dataset.read_manifest(self._data / "cxr256" / "manifest.csv")

    @cached_property
    def localised(self) -> list[LocalisedRow]:
        """The localised films."""
        return dataset.read_localised(self._data / "localised")

    def films_of(self, *splits: str) -> Films:
        """The manifest's films of some splits, on the model grid."""
        return self._films([row for row in self.rows if row.split in splits])

    def _films(self, rows: Sequence[FilmRow]) -> Films:
        return dataset.load_films(self._data / "cxr256", [(row.tar, row.file) for row in rows])

    @cached_property
    def material(self) -> Material:
        """The training films with their lungs; boxed films of part train come last."""
        plain = [row for row in self.rows if row.split == "train"]
        boxed = [row for row in self.localised if row.part == "train"]
        extra = dataset.load_films(
            self._data / "localised", [("images.tar", row.file) for row in boxed]
        )
        films = np.concatenate([self.films_of("train"), extra])
        return Material(
            films=films,
            lungs=self._lungs(films),
            rows=[*plain, *(_as_film_row(row) for row in boxed)],
            boxes=[*itertools.repeat((), len(plain)), *(row.boxes for row in boxed)],
        )

    @cached_property
    def latents(self) -> Latents:
        """Statistics of the training films' latents, from a fixed random part of them."""
        films = self.material.films
        some = np.random.default_rng(0).choice(
            len(films), min(_STATISTICS_FILMS, len(films)), False
        )
        z = torch.cat([self._raw(autoencoder.to_signed(films[i : i + 1])) for i in some])
        return Latents(mean=z.mean((0, 2, 3)), std=z.std((0, 2, 3)))

    def embeddings(self, captions: Sequence[str]) -> torch.Tensor:
        """The text encoder's states of each caption, [captions, tokens, width]."""
        model = BertModel.from_pretrained(self._work / "language-model" / "text_encoder").eval()
        ids, mask = language_model.tokenise(self._tokenizer, captions)
        with torch.no_grad():
            states: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(self._work / "language-model" / "tokenizer")

    @cached_property
    def _autoencoder(self) -> AutoencoderDC:
        folder = self._work / "autoencoder" / "final"
        if not folder.is_dir():
            raise DatasetError(f"{folder}: train the autoencoder first")
        model = AutoencoderDC.from_pretrained(folder, use_safetensors=True)
        return model.to(self._device, memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def _raw(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self._device, memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            z: torch.Tensor = self._autoencoder.encode(x).latent
        return z.float().cpu()

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.latents.normalised(self._raw(x))

    @torch.no_grad()
    def _decoded(self, z: torch.Tensor) -> list[Image]:
        raw = z.float() * self.latents.std.view(1, -1, 1, 1) + self.latents.mean.view(1, -1, 1, 1)
        films = self._autoencoder.decode(raw.to(self._device)).sample[:, 0] / 2 + 0.5
        return list(films.float().cpu().numpy())

    def _picture_round_trips(self, films: Films) -> None:
        """samples.png: each film above its reconstruction."""
        back = self._decoded(self._encode(autoencoder.to_signed(films)))
        rows = ([film.astype(np.float32) / 255 for film in films], back)
        plots.samples(rows, self._work / "autoencoder" / "samples.png")

    @torch.no_grad()
    def _answers(
        self, model: torch.nn.Module, source: torch.Tensor, words: Sequence[str]
    ) -> torch.Tensor:
        """What a U-Net says of latents [n, c, h, w] at the first step, from noise alone."""
        seen = torch.cat([torch.randn_like(source), source], 1).to(self._device)
        last = torch.full((len(source),), TRAIN_STEPS - 1, device=self._device)
        out: torch.Tensor = model(seen, last, self.embeddings(words).to(self._device)).sample
        return out.float().cpu()

    @torch.no_grad()
    def _picture_edits(self, model: torch.nn.Module, pool: Pool) -> None:
        """samples.png: films with pasted lesions, healed in one step, and as they truly were."""
        places = torch.from_numpy(pool.of("pasted")[:_SHOWN])
        source, aim = pool.source[places].float(), pool.aim[places].float()
        out = self._answers(model, source, [pool.captions[int(i)] for i in pool.normal[places]])
        # At t = T alpha is 0 and sigma 1: the velocity is minus the clean latent.
        healed = source + out[:, -1:].sigmoid() * (-out[:, : source.shape[1]] - source)
        rows = [self._decoded(z) for z in (source, healed, aim)]
        plots.samples(rows, self._work / "diffusion" / "samples.png")

    def _lungs(self, films: Films) -> Films:
        """The films' lung masks, kept in the work folder once made; none before the segmenter."""
        kept = self._work / "lungs.npy"
        if not self._segmenter.exists():
            return np.zeros_like(films)
        if not kept.exists():
            np.save(kept, segmenter.lungs(load_segmenter(self._segmenter), films))
        masks: Films = np.load(kept)
        return masks

    @property
    def _segmenter(self) -> Path:
        return self._work / "segmenter" / LUNG_SEGMENTER

    def _outlined(self) -> tuple[Films, Films]:
        """The films with lung outlines, and the outlines, both on the grid."""
        folder = self._data / "localised"
        with tarfile.open(folder / "lungs.tar") as archive:
            outlines = {Path(name).stem: name for name in archive.getnames()}
        rows = [row for row in self.localised if Path(row.file).stem in outlines]
        films = dataset.load_films(folder, [("images.tar", row.file) for row in rows])
        names = [outlines[Path(row.file).stem] for row in rows]
        return films, dataset.load_films(folder, [("lungs.tar", name) for name in names])

    def _write_gate(self, path: Path) -> None:
        """The image gate, its limits set on films that no part of it was fitted to."""
        classifier = ViewClassifier()
        classifier.load_state_dict(load_file(self._work / "view" / IMAGE_GATE))
        gaussian = gates.fit(self._thumbnails(self.material.films), _GATE_AXES)
        open_gate = ImageGate(
            classifier=classifier.eval(), gaussian=gaussian, least_logit=-np.inf, limit=np.inf
        )
        held_out = [film.astype(np.float32) / 255 for film in self.films_of("calibration", "val")]
        logits = [open_gate.logit(film) for film in held_out]
        distances = [gaussian.distance(film) for film in held_out]
        gate = replace(
            open_gate,
            least_logit=float(np.quantile(logits, 1 - _GATE_KEEPS)),
            limit=float(np.quantile(distances, _GATE_KEEPS)),
        )
        save_image_gate(gate, path)

    def _write_prior(self, path: Path) -> None:
        """The latents of adult normal films, their lungs moved to one place, as a Gaussian."""
        material = self.material
        usable = [
            index
            for index, row in enumerate(material.rows)
            if row.label == "Normal"
            and not row.paediatric
            and anatomy.usable(material.lungs[index] > 0)
        ]
        some = np.random.default_rng(0).permutation(usable)[:_PRIOR_FILMS]
        place = anatomy.typical_place(material.lungs[some] > 0)
        z = torch.cat([self._placed(int(index), place) for index in some]).flatten(1)
        mean = z.mean(0)
        _, spread, axes = torch.linalg.svd(z - mean, full_matrices=False)
        sd = spread[:_PRIOR_AXES] / len(z) ** 0.5
        parts = {"mean": mean, "axes": axes[:_PRIOR_AXES], "sd": sd}
        save_file({name: part.half().contiguous() for name, part in parts.items()}, path)

    def _placed(self, index: int, place: np.ndarray) -> torch.Tensor:
        material = self.material
        film = material.films[index].astype(np.float32) / 255
        moved = anatomy.move(film, material.lungs[index] > 0, place)
        return self._encode(torch.from_numpy(moved)[None, None] * 2 - 1)

    @staticmethod
    def _thumbnails(films: Films) -> np.ndarray:
        return np.stack([gates.thumbnail(film.astype(np.float32) / 255) for film in films])

    def _first_settings(self, version: str) -> Settings:
        return Settings(
            name=MODEL_NAME,
            version=version,
            grid=GRID,
            tokens=language_model.TOKENS,
            latents_mean=tuple(self.latents.mean.tolist()),
            latents_std=tuple(self.latents.std.tolist()),
        )

    def _recipe(
        self, minutes: float, batch: int, learning_rate: float, warmup_steps: int = 200
    ) -> Recipe:
        return Recipe(
            minutes=minutes,
            batch=batch,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            seed=self._seed,
            device=self._device,
        )


def _half(model: torch.nn.Module, trained: Path, folder: Path) -> None:
    """The trained network in fp16, in shards that stay small."""
    kind = type(model)
    network = kind.from_pretrained(trained, use_safetensors=True)  # type: ignore[attr-defined]
    network.half().save_pretrained(folder, max_shard_size=_SHARD)
    config = folder / "config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    said.pop("_name_or_path", None)  # where it was trained is nobody's business
    config.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def save_network(model: torch.nn.Module, path: Path) -> None:
    """A network of our own in fp16 at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, path)
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


def _as_film_row(row: LocalisedRow) -> FilmRow:
    return FilmRow(
        file=row.file,
        tar="images.tar",
        split="train",
        label="Tuberculosis",
        source=row.source,
        group="",
        patient="",
        view="",
        flags=frozenset(),
    )


_INDEX = """{
 "_class_name": "StableDiffusionInstructPix2PixPipeline",
 "vae": ["diffusers", "AutoencoderDC"],
 "unet": ["diffusers", "UNet2DConditionModel"],
 "text_encoder": ["transformers", "BertModel"],
 "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
 "scheduler": ["diffusers", "DDIMScheduler"]
}
"""
