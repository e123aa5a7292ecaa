"""`vald-node evaluate`: a progress bar around the measurement, and its numbers as JSON."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import track

from pipeline import digest, weights
from pipeline.evaluation.measure import Measurement, Selection
from pipeline.types import Mode, Radiograph


def evaluate(data: Path, part: str, mode: Mode, model: str, limit: int, *, as_json: bool) -> None:
    """Print what was measured, on one line where `as_json`."""
    if part not in ("dev", "test"):
        raise typer.BadParameter("--part is dev or test")
    loaded = weights.load(digest.folder_of(model), weights.choose_device("auto"))
    films = Selection(data=data, part=part, limit=limit)
    found = Measurement(loaded, mode, films, _shown).everything()
    typer.echo(json.dumps(found, indent=None if as_json else 1))


def _shown(films: Sequence[Radiograph], what: str) -> Iterable[Radiograph]:
    return track(films, what, console=Console(stderr=True))
