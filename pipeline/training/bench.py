"""What every part of a model is made from: films and their lungs, latents, words.

A data folder holds `cxr256/` (manifest.csv and archives), `localised/` (boxes, lung outlines) and
`reports/`; a work folder gets one folder a step.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from transformers import BertModel, PreTrainedTokenizerFast

from pipeline import digest, schedule
from pipeline.anatomy import Mask
from pipeline.errors import DatasetError
from pipeline.models import Denoiser
from pipeline.schedule import TRAIN_STEPS
from pipeline.training import autoencoder, dataset, kept, language_model, pictures, segmenter
from pipeline.training.budget import Budget
from pipeline.training.dataset import FilmRow, LocalisedRow
from pipeline.training.kept import Parts, Shelf
from pipeline.training.pairs import Material
from pipeline.training.pictures import Films
from pipeline.training.session import Progress, autocast
from pipeline.types import Image
from pipeline.weights import IMAGE_GATE, LUNG_SEGMENTER, load_segmenter, networks

_STATISTICS_FILMS = 512
_LUNGS = 1024  # films in a part: about a minute of one CPU core
_DIFFUSERS = "final/diffusion_pytorch_model.safetensors"
_FINISHED = {
    "segmenter": f"segmenter/{LUNG_SEGMENTER}",
    "autoencoder": f"autoencoder/{_DIFFUSERS}",
    "language-model": "language-model/text_encoder/model.safetensors",
    "view": f"view/{IMAGE_GATE}",
    "diffusion": f"diffusion/{_DIFFUSERS}",
}
"""What each part leaves in the work folder once it has been trained."""


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

    def __init__(
        self,
        *,
        data: Path,
        work: Path,
        device: str,
        progress: Progress = lambda *_: None,
        budget: Budget | None = None,
    ) -> None:
        # A folder's whole path: a name that could be one of a hub is never looked for there.
        self._data, self.work, self.device = data, work.resolve(), device
        self._progress, self._budget = progress, budget or Budget()

    def shelf(self, *names: str) -> Shelf:
        """A folder in `work` for what is made once, within the command's time."""
        place = self.work.joinpath(*names)
        return Shelf(folder=place, progress=self._progress, budget=self._budget)

    def demand(self, *parts: str) -> None:
        """These parts have been trained.

        Raises:
            DatasetError: one has not; hours of training may come before it is needed.
        """
        missing = [part for part in parts if not (self.work / _FINISHED[part]).is_file()]
        if missing:
            raise DatasetError(f"{self.work}: train the {', the '.join(missing)} first")

    @cached_property
    def rows(self) -> list[FilmRow]:
        """The manifest; every film that it lists is there."""
        rows = dataset.read_manifest(self._data / "cxr256" / "manifest.csv")
        pictures.demand_films(self._data / "cxr256", [(row.tar, row.file) for row in rows])
        return rows

    @cached_property
    def localised(self) -> list[LocalisedRow]:
        """The localised films; a data folder may have none."""
        if not self._localised.exists():
            return []
        rows = dataset.read_localised(self._localised)
        dataset.demand_apart(self.rows, rows)
        used = [(self._boxed, row.file) for row in rows if row.part == "train"]
        pictures.demand_films(self._localised, used)
        return rows

    @property
    def _localised(self) -> Path:
        return self._data / "localised"

    @property
    def _boxed(self) -> str:
        return pictures.place_of(self._localised, "images")

    def sentences(self) -> list[str]:
        """What the radiology reports say, sentence by sentence."""
        return language_model.read_reports(self._data / "reports" / "indiana_reports.csv")

    def films_of(self, *splits: str) -> Films:
        """The manifest's films of some splits, on the model grid.

        Raises:
            DatasetError: there are none, or one is missing or cannot be decoded.
        """
        rows = [row for row in self.rows if row.split in splits]
        if not rows:
            raise DatasetError(f"{self._data / 'cxr256'}: no film of split {' or '.join(splits)}")
        return self.films(rows)

    def films(self, rows: Sequence[FilmRow]) -> Films:
        """The films of these rows, on the model grid."""
        return pictures.load_films(self._data / "cxr256", [(row.tar, row.file) for row in rows])

    def normals(self, split: str, most: int) -> tuple[list[Image], list[Mask]]:
        """Some Normal films of a split, 0 .. 1, and their lungs; none before the segmenter."""
        rows = [row for row in self.rows if row.split == split and row.label == "Normal"]
        if not rows or not self.segmenter.exists():
            return [], []
        films = self.films(rows[:: -(-len(rows) // most)])
        masks = segmenter.lungs(load_segmenter(self.segmenter), films)
        return [np.asarray(film / 255, np.float32) for film in films], list(masks > 0)

    @cached_property
    def training_films(self) -> Films:
        """The films that are learnt from; localised ones of part train come last."""
        boxed = [row for row in self.localised if row.part == "train"]
        extra = pictures.load_localised(self._localised, boxed)
        return np.concatenate([self.films_of("train"), extra])

    @cached_property
    def material(self) -> Material:
        """The training films with their lungs, which are made first, and what is known of them."""
        plain = [row for row in self.rows if row.split == "train"]
        boxed = [row for row in self.localised if row.part == "train"]
        return Material(
            films=self.training_films,
            lungs=self._lungs(self.training_films),
            rows=[*plain, *(_as_film_row(row) for row in boxed)],
            boxes=[*itertools.repeat((), len(plain)), *(row.boxes for row in boxed)],
        )

    @cached_property
    def latents(self) -> Latents:
        """Statistics of the training films' latents, from a fixed random part of them."""
        films = self.training_films
        some = np.random.default_rng(0).choice(
            len(films), min(_STATISTICS_FILMS, len(films)), False
        )
        z = torch.cat([self._raw(autoencoder.to_signed(films[i : i + 1])) for i in some])
        return Latents(mean=z.mean((0, 2, 3)), std=z.std((0, 2, 3)))

    def embeddings(self, captions: Sequence[str]) -> torch.Tensor:
        """The text encoder's states of each caption, [captions, tokens, width]."""
        model = BertModel.from_pretrained(self.text_encoder, local_files_only=True).eval()
        ids, mask = language_model.tokenise(self.tokenizer, captions)
        with torch.no_grad():
            states: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that the text encoder was trained with."""
        folder = self.work / "language-model" / "tokenizer"
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)

    @property
    def text_encoder(self) -> Path:
        """Where the trained text encoder lies."""
        return self.work / "language-model" / "text_encoder"

    @cached_property
    def _autoencoder(self) -> AutoencoderDC:
        self.demand("autoencoder")
        model = AutoencoderDC.from_pretrained(
            self.final("autoencoder"), use_safetensors=True, local_files_only=True
        )
        return model.to(self.device, memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def _raw(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            z: torch.Tensor = self._autoencoder.encode(x).latent
        return z.float().cpu()

    def final(self, part: str) -> Path:
        """Where a finished network of diffusers lies."""
        return self.work / part / "final"

    def digest_of(self, part: str) -> str:
        """Of a finished part's weights."""
        return kept.digest_of(self.work / _FINISHED[part])

    @cached_property
    def films_digest(self) -> str:
        """Of the training films' pixels."""
        return kept.digest_of(self.training_films)

    @property
    def encoder_digest(self) -> str:
        """Of what `encode` computes with: the autoencoder, and the films of its statistics."""
        weights = self.work / _FINISHED["autoencoder"]
        return kept.digest_of(weights, self.training_films)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised latents [n, c, h/8, w/8] of films [n, 1, h, w] in -1 .. 1."""
        return self.latents.normalised(self._raw(x))

    def unet(self) -> UNet2DConditionModel:
        """The trained U-Net."""
        return UNet2DConditionModel.from_pretrained(
            self.final("diffusion"), use_safetensors=True, local_files_only=True
        )

    @property
    def is_paired(self) -> bool:
        """Whether the trained U-Net sees the source: it takes twice the latents' channels.

        The U-Net alone does not tell: in pairs it takes and gives 2 for latents of one channel, and
        so does the plain form for those of two.
        """
        return self._channels("diffusion", "in") == 2 * self._channels("autoencoder", "latent")

    def _channels(self, part: str, which: str) -> int:
        return int(digest.read_object(self.final(part) / "config.json")[f"{which}_channels"])

    def denoiser(self, unet: torch.nn.Module) -> Denoiser:
        """A U-Net of these latents with the schedule that it is taught by."""
        channels = len(self.latents.mean)
        return networks.denoiser_of(unet, schedule.zero_terminal(), "v_prediction", channels)

    @torch.no_grad()
    def answers(
        self, unet: torch.nn.Module, source: torch.Tensor, words: Sequence[str], seed: int
    ) -> torch.Tensor:
        """What a U-Net says of latents [n, c, h, w] at the first step, from noise alone.

        The noise is the seed's in every call, so that what is kept depends on no other call.
        """
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed))
        seen = torch.cat([noise, source], 1).to(self.device)
        last = torch.full((len(source),), TRAIN_STEPS - 1, device=self.device)
        out: torch.Tensor = unet(seen, last, self.embeddings(words).to(self.device)).sample
        return out.float().cpu()

    @torch.no_grad()
    def decoded(self, z: torch.Tensor) -> list[Image]:
        """Films, about 0 .. 1, of normalised latents."""
        raw = self.latents.raw(z.float()).to(self.device)
        films = self._autoencoder.decode(raw).sample[:, 0] / 2 + 0.5
        return list(films.float().cpu().numpy())

    def _lungs(self, films: Films) -> Films:
        """The films' lung masks, kept in the work folder once made; none before the segmenter."""
        if not self.segmenter.exists():
            return np.zeros_like(films)

        runs = [films[begin : begin + _LUNGS] for begin in range(0, len(films), _LUNGS)]

        def make(number: int, tell: Callable[[int], None]) -> kept.Tensors:
            masks = segmenter.lungs(load_segmenter(self.segmenter), runs[number], tell=tell)
            return {"lungs": torch.from_numpy(masks)}

        weights = kept.digest_of(self.segmenter)
        parts = Parts(
            what="films' lungs",
            sizes=list(map(len, runs)),
            origins=[{"segmenter": weights, "films": kept.digest_of(run)} for run in runs],
        )
        return np.asarray(kept.in_parts(self.shelf("lungs"), parts, make)["lungs"].numpy())

    @property
    def segmenter(self) -> Path:
        """Where the trained lung segmenter lies."""
        return self.work / "segmenter" / LUNG_SEGMENTER

    def outlined(self) -> tuple[Films, Films]:
        """The films with lung outlines, and the outlines, both on the grid.

        Raises:
            DatasetError: there is no outline, or no film for any.
        """
        place = pictures.place_of(self._localised, "lungs")
        found = pictures.names_in(self._localised, place) if place else []
        outlines = {Path(name).stem: name for name in found}
        rows = [row for row in self.localised if Path(row.file).stem in outlines]
        if not rows:
            raise DatasetError(
                f"{self._localised}: no outline of lungs, in lungs.tar or lungs/, of a film of "
                "images.csv; the segmenter learns from them"
            )
        names = [(place, outlines[Path(row.file).stem]) for row in rows]
        films = pictures.load_localised(self._localised, rows)
        return films, pictures.load_masks(self._localised, names)


def _as_film_row(row: LocalisedRow) -> FilmRow:
    """Labelled by its first box; nothing was found on a film without one."""
    return FilmRow(
        file=row.file,
        tar="",
        split="train",
        label=dataset.BOXED[row.boxes[0].finding][0] if row.boxes else "Normal",
        source=row.source,
        group=row.group,
        patient=row.patient,
        view="",
        flags=frozenset(),
    )
