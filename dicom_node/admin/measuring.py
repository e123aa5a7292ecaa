"""`vald-node evaluate`: a progress bar around the measurement, its numbers and its page."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import track

from dicom_node.admin.films import made_folder
from pipeline import classifier, digest, weights
from pipeline.evaluation import report, sets, summary
from pipeline.evaluation.cases import Judges
from pipeline.evaluation.keeping import Keeper
from pipeline.evaluation.measure import Measurement
from pipeline.evaluation.selection import Selection
from pipeline.training import files
from pipeline.types import Mode

_PAGE, _NUMBERS, _SUMMARY = "evaluation.html", "evaluation.json", "evaluation.md"


def run(
    data: Path,
    part: str,
    limit: int,
    mode: Mode,
    model: str,
    judges: Path | None,
    out: Path | None,
    keep: Path | None,
    inception: Path | None,
    *,
    maps_only: bool,
    without: Collection[str],
    as_json: bool,
) -> None:
    """Print what was measured; `out` gets it as JSON and as a page with pictures of the films.

    What is made of the films is kept in `keep`, for a run that goes on or is made again.
    """
    if part not in ("dev", "test"):
        raise typer.BadParameter("--part is dev or test")
    if unknown := [name for name in without if name not in summary.SECTIONS]:
        known = ", ".join(summary.SECTIONS)
        raise typer.BadParameter(f"--without {unknown[0]}: there are {known}")
    films = Selection(data=data, part=part, limit=limit)
    films.demand_films([films.split] if maps_only else [films.split, "train"])
    for folder in filter(None, (out, keep)):
        made_folder(folder)
    origin = digest.folder_of(model)
    loaded = weights.load(origin, weights.choose_device("auto"))
    keeper = Keeper(keep, origin) if keep else None
    judged = load_judges(judges or weights.JUDGES, inception)
    measurement = Measurement(loaded, mode, judged, films, _shown, keeper)
    made = measurement.maps() if maps_only else measurement.everything(without)
    for note in made.numbers["notes"]:
        typer.echo(note, err=True)
    # Before any file: a disk that is full then loses no number.
    typer.echo(json.dumps(made.numbers, indent=None if as_json else 1))
    if out is not None:
        reading = loaded.settings.reading(mode)
        with files.writing(out):
            report.write_numbers(made, out / _NUMBERS)
            report.write_summary(made, out / _SUMMARY)
            report.write(made, out / _PAGE, reading.threshold, reading.scale_max)


def load_judges(folder: Path, inception: Path | None) -> Judges:
    """The classifier, the rival and the witness of a folder, of which the last two may be absent.

    Raises:
        ModelError: there is no classifier, or it is not of the known form.
    """
    rival, witness = folder / weights.RIVAL, folder / weights.WITNESS
    judge = classifier.load(folder / weights.CLASSIFIER)
    return Judges(
        classifier=judge,
        segmenter=weights.load_segmenter(rival) if rival.is_file() else None,
        encoder=sets.encoder(judge, inception),
        witness=classifier.load(witness) if witness.is_file() else None,
    )


def _shown(films: Sequence[Any], what: str) -> Iterable[Any]:
    return track(films, what, console=Console(stderr=True))
