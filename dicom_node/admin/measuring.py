"""`vald-node evaluate`: reconstruction, localisation and false alarms of a model, on real films."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import typer
from rich.progress import track

from pipeline import digest, weights
from pipeline.evaluation import fidelity, localisation
from pipeline.evaluation.localisation import Localisation
from pipeline.explainer import Explainer
from pipeline.training import dataset
from pipeline.training.dataset import FilmRow, LocalisedRow
from pipeline.types import Mode, Radiograph
from pipeline.weights import LoadedModel

_SIDE = 128  # localisation is judged here: boxes are no finer
_GROUPS: dict[str, Callable[[LocalisedRow], bool]] = {
    "rsna_opacity": lambda row: any(box.finding == "Lung_Opacity" for box in row.boxes),
    "tbx_tuberculosis": lambda row: row.source == "tbx11k" and bool(row.boxes),
    "jsrt_nodule": lambda row: row.source == "jsrt" and bool(row.boxes),
}


def evaluate(data: Path, part: str, mode: Mode, model: str, limit: int, *, as_json: bool) -> None:
    """Print what was measured."""
    loaded = weights.load(digest.folder_of(model), weights.choose_device("auto"))
    found = {
        "model": loaded.digest,
        "mode": mode,
        "part": part,
        "psnr_db": _reconstruction(data, loaded, "val" if part == "dev" else "test", limit),
        "localisation": {
            name: asdict(score) for name, score in _localisation(data, loaded, part, mode, limit)
        },
        "normals": _normals(data, loaded, mode, "val" if part == "dev" else "test", limit),
    }
    typer.echo(json.dumps(found, indent=None if as_json else 1))


def _reconstruction(
    data: Path, model: LoadedModel, split: str, limit: int
) -> dict[str, dict[str, float]]:
    """Mean PSNR of the autoencoder by source, and of how many films."""
    rows = [row for row in dataset.read_manifest(data / "cxr256" / "manifest.csv") if row.split == split]
    found: dict[str, dict[str, float]] = {}
    for source in sorted({row.source for row in rows}):
        films = _films(data, [row for row in rows if row.source == source], limit)
        values = [fidelity.psnr_db(film, _round_trip(model, film)) for film in track(films, source)]
        found[source] = {"films": len(values), "mean": float(np.mean(values))}
    return found


def _round_trip(model: LoadedModel, film: Radiograph) -> np.ndarray:
    x = torch.from_numpy(film.pixels)[None, None].to(model.device) * 2 - 1
    y = model.autoencoder.decode(model.autoencoder.encode(x))[0, 0]
    return (y / 2 + 0.5).clamp(0, 1).cpu().numpy()


def _localisation(
    data: Path, model: LoadedModel, part: str, mode: Mode, limit: int
) -> Iterable[tuple[str, Localisation]]:
    rows = [row for row in dataset.read_localised(data / "localised") if row.part == part]
    for name, belongs in _GROUPS.items():
        chosen = [row for row in rows if belongs(row)][: limit or None]
        members = [("images.tar", row.file) for row in chosen]
        films = dataset.load_films(data / "localised", members)
        maps = [_map(model, mode, film) for film in track(films, name)]
        truths = [localisation.box_mask(row.boxes, _SIDE) for row in chosen]
        yield name, localisation.localise(maps, truths)


def _map(model: LoadedModel, mode: Mode, film: np.ndarray) -> np.ndarray:
    made = Explainer(model).explain(_radiograph(film), mode, seed=0)
    return localisation.to_side(made.attribution_map, _SIDE)


def _normals(
    data: Path, model: LoadedModel, mode: Mode, split: str, limit: int
) -> dict[str, float]:
    """How many adult normal films have any region."""
    rows = [
        row
        for row in dataset.read_manifest(data / "cxr256" / "manifest.csv")
        if row.split == split and row.label == "Normal" and not row.paediatric
    ]
    films = _films(data, rows, limit)
    explainer = Explainer(model)
    marked = [bool(explainer.explain(f, mode, seed=0).regions) for f in track(films, "normals")]
    return {"films": len(marked), "share_with_a_region": float(np.mean(marked))}


def _films(data: Path, rows: Sequence[FilmRow], limit: int) -> list[Radiograph]:
    members = [(row.tar, row.file) for row in rows[: limit or None]]
    return [_radiograph(film) for film in dataset.load_films(data / "cxr256", members)]


def _radiograph(film: np.ndarray) -> Radiograph:
    return Radiograph(pixels=film.astype(np.float32) / 255)


