"""What `vald-node evaluate` measures of a model, on real films."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pipeline.evaluation import fidelity, localisation
from pipeline.evaluation.localisation import Localisation
from pipeline.explainer import Explainer
from pipeline.training import dataset
from pipeline.training.dataset import FilmRow, Films, LocalisedRow
from pipeline.types import Image, Mode, Radiograph
from pipeline.weights import LoadedModel

_SIDE = 128  # localisation is judged here: boxes are no finer
_GROUPS: dict[str, Callable[[LocalisedRow], bool]] = {
    "rsna_opacity": lambda row: any(box.finding == "Lung_Opacity" for box in row.boxes),
    "tbx_tuberculosis": lambda row: row.source == "tbx11k" and bool(row.boxes),
    "jsrt_nodule": lambda row: row.source == "jsrt" and bool(row.boxes),
}
_LEAST_FILMS = 2
_SPLIT_OF = {"dev": "val", "test": "test"}

_T = TypeVar("_T")
Track = Callable[[Sequence[_T], str], Iterable[_T]]
"""Passes a sequence through and shows how far it has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which films, and how many of each group at most (0: all)."""

    data: Path
    part: str
    limit: int

    @property
    def split(self) -> str:
        """The manifest's split that goes with the part: dev is chosen on, test reported on."""
        return _SPLIT_OF[self.part]


class Measurement:
    """Measures one model in one mode."""

    def __init__(
        self, model: LoadedModel, mode: Mode, films: Selection, track: Track[Radiograph]
    ) -> None:
        self._model, self._mode, self._films, self._track = model, mode, films, track
        self._explainer = Explainer(model)

    def everything(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return {
            "model": self._model.digest,
            "mode": str(self._mode),
            "part": self._films.part,
            "psnr_db": self.reconstruction(),
            "localisation": {name: asdict(score) for name, score in self.localisation()},
            "adult_normals": self.normals(),
        }

    def reconstruction(self) -> dict[str, dict[str, float]]:
        """Mean PSNR of the autoencoder by source, and over how many films."""
        rows = self._rows(lambda _: True)
        found: dict[str, dict[str, float]] = {}
        for source in sorted({row.source for row in rows}):
            films = self._load([row for row in rows if row.source == source])
            values = [fidelity.psnr_db(f, self._round_trip(f)) for f in self._track(films, source)]
            found[source] = {"films": len(values), "mean": float(np.mean(values))}
        return found

    def localisation(self) -> Iterator[tuple[str, Localisation]]:
        """Each group of boxed films: own map, other films' maps, gain."""
        folder = self._films.data / "localised"
        rows = [row for row in dataset.read_localised(folder) if row.part == self._films.part]
        for name, belongs in _GROUPS.items():
            chosen = [row for row in rows if belongs(row)][: self._films.limit or None]
            if len(chosen) < _LEAST_FILMS:
                continue  # another film's map is the control: one film has none
            films = dataset.load_films(folder, [("images.tar", row.file) for row in chosen])
            maps = [self._map(film) for film in self._track(radiographs(films), name)]
            truths = [localisation.box_mask(row.boxes, _SIDE) for row in chosen]
            yield name, localisation.localise(maps, truths)

    def normals(self) -> dict[str, float]:
        """How many adult normal films have any region."""
        rows = self._rows(lambda row: row.label == "Normal" and not row.paediatric)
        films = self._load(rows)
        marked = [
            bool(self._explainer.explain(film, self._mode, seed=0).regions)
            for film in self._track(films, "adult normals")
        ]
        return {"films": len(marked), "share_with_a_region": float(np.mean(marked))}

    def _map(self, film: Radiograph) -> Image:
        made = self._explainer.explain(film, self._mode, seed=0)
        return localisation.to_side(made.attribution_map, _SIDE)

    def _round_trip(self, film: Radiograph) -> Image:
        x = torch.from_numpy(film.pixels)[None, None].to(self._model.device) * 2 - 1
        y = self._model.autoencoder.decode(self._model.autoencoder.encode(x))[0, 0]
        back: Image = (y / 2 + 0.5).clamp(0, 1).cpu().numpy()
        return back

    def _rows(self, belongs: Callable[[FilmRow], bool]) -> list[FilmRow]:
        manifest = dataset.read_manifest(self._films.data / "cxr256" / "manifest.csv")
        return [row for row in manifest if row.split == self._films.split and belongs(row)]

    def _load(self, rows: Sequence[FilmRow]) -> list[Radiograph]:
        members = [(row.tar, row.file) for row in rows[: self._films.limit or None]]
        return radiographs(dataset.load_films(self._films.data / "cxr256", members))


def radiographs(films: Films) -> list[Radiograph]:
    """Films of 0 .. 255 as the explainer takes them."""
    return [Radiograph(pixels=film.astype(np.float32) / 255) for film in films]
