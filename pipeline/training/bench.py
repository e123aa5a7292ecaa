"""What every part of a model is made from: films and their lungs, latents, words.

A data folder holds `cxr256/` (manifest.csv and archives), `localised/` (boxes, lung outlines) and
`reports/`; a work folder gets one folder a step.
"""

import itertools
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from transformers import BertModel, PreTrainedTokenizerFast

from pipeline.errors import DatasetError
from pipeline.training import autoencoder, dataset, language_model, segmenter
from pipeline.training.dataset import FilmRow, Films, LocalisedRow
from pipeline.training.pairs import Material
from pipeline.types import Image
from pipeline.weights import LUNG_SEGMENTER, load_segmenter

_STATISTICS_FILMS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """Per-channel mean and SD of the training films' latents, each [channels]."""

    mean: torch.Tensor
    std: torch.Tensor

    def normalised(self, z: torch.Tensor) -> torch.Tensor:
        """Latents of mean 0 and SD 1."""
        return (z - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)

    def raw(self, z: torch.Tensor) -> torch.Tensor:
        """The autoencoder's own, of normalised ones."""
        return z * self.std.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)


class Bench:
    """The films of `data`, and what the parts in `work` that are finished make of them."""

    def __init__(self, *, data: Path, work: Path, device: str) -> None:
        self._data, self.work, self.device = data, work, device

    @cached_property
    def rows(self) -> list[FilmRow]:
        """The manifest."""
        return dataset.read_manifest(self._data / "cxr256" / "manifest.csv")

    @cached_property
    def localised(self) -> list[LocalisedRow]:
        """The localised films."""
        return dataset.read_localised(self._data / "localised")

    def sentences(self) -> list[str]:
        """What the radiology reports say, sentence by sentence."""
        return language_model.read_reports(self._data / "reports" / "indiana_reports.csv")

    def films_of(self, *splits: str) -> Films:
        """The manifest's films of some splits, on the model grid."""
        return self.films([row for row in self.rows if row.split in splits])

    def films(self, rows: Sequence[FilmRow]) -> Films:
        """The films of these rows, on the model grid."""
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
        model = BertModel.from_pretrained(self.work / "language-model" / "text_encoder").eval()
        ids, mask = language_model.tokenise(self.tokenizer, captions)
        with torch.no_grad():
            states: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that the text encoder was trained with."""
        return PreTrainedTokenizerFast.from_pretrained(self.work / "language-model" / "tokenizer")

    @cached_property
    def _autoencoder(self) -> AutoencoderDC:
        folder = self.work / "autoencoder" / "final"
        if not folder.is_dir():
            raise DatasetError(f"{folder}: train the autoencoder first")
        model = AutoencoderDC.from_pretrained(folder, use_safetensors=True)
        return model.to(self.device, memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def _raw(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            z: torch.Tensor = self._autoencoder.encode(x).latent
        return z.float().cpu()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised latents [n, c, h/8, w/8] of films [n, 1, h, w] in -1 .. 1."""
        return self.latents.normalised(self._raw(x))

    @torch.no_grad()
    def decoded(self, z: torch.Tensor) -> list[Image]:
        """Films, about 0 .. 1, of normalised latents."""
        raw = self.latents.raw(z.float()).to(self.device)
        films = self._autoencoder.decode(raw).sample[:, 0] / 2 + 0.5
        return list(films.float().cpu().numpy())

    def _lungs(self, films: Films) -> Films:
        """The films' lung masks, kept in the work folder once made; none before the segmenter."""
        kept = self.work / "lungs.npy"
        if not self.segmenter.exists():
            return np.zeros_like(films)
        if not kept.exists():
            np.save(kept, segmenter.lungs(load_segmenter(self.segmenter), films))
        masks: Films = np.load(kept)
        return masks

    @property
    def segmenter(self) -> Path:
        """Where the trained lung segmenter lies."""
        return self.work / "segmenter" / LUNG_SEGMENTER

    def outlined(self) -> tuple[Films, Films]:
        """The films with lung outlines, and the outlines, both on the grid."""
        folder = self._data / "localised"
        with tarfile.open(folder / "lungs.tar") as archive:
            outlines = {Path(name).stem: name for name in archive.getnames()}
        rows = [row for row in self.localised if Path(row.file).stem in outlines]
        films = dataset.load_films(folder, [("images.tar", row.file) for row in rows])
        names = [outlines[Path(row.file).stem] for row in rows]
        return films, dataset.load_films(folder, [("lungs.tar", name) for name in names])


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
