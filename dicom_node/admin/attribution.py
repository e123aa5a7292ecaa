"""`vald-node attribute`: files in, counterpart, overlay, map and objects out; no PACS needed."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from dicom_node import config, uids
from dicom_node.admin import marked
from dicom_node.admin.films import FilmFile, FilmReader
from dicom_node.errors import NodeError
from dicom_node.radiograph import Film
from dicom_node.results import picture, registry, wording
from dicom_node.results.provenance import ResultContext
from dicom_node.uids import AnalysisInputs
from pipeline import digest
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.errors import PipelineError
from pipeline.training import files
from pipeline.types import Attribution, Mode, Status, Unlike


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which model, and how it is asked."""

    model: str
    device: str
    mode: Mode
    seed: int


def choose(
    path: Path | None, environ: Mapping[str, str], *, mode: Mode | None, seed: int | None
) -> Settings:
    """The settings of a configuration, or the embedded model's, with what was asked otherwise.

    Raises:
        ConfigError: the configuration has faults.
    """
    model, device, default_mode, default_seed = "embedded", "auto", Mode.CALIBRATED, 0
    if path is not None:
        read = config.load(path, environ).model
        model, device = str(read.path), read.device
        default_mode, default_seed = Mode(read.mode), read.seed
    return Settings(
        model=model,
        device=device,
        mode=mode or default_mode,
        seed=default_seed if seed is None else seed,
    )


def attribute(files: Sequence[Path], out: Path, settings: Settings, *, as_json: bool) -> bool:
    """Analyse each file into `out`/STEM/; True if all could be."""
    engine = LocalEngine(digest.folder_of(settings.model), settings.device)
    console = Console(stderr=True)
    said: list[dict[str, object]] = []
    with contextlib.closing(engine), FilmReader() as reader:
        folders = _folders(files, out)
        for file in track(files, "attributing", console=console, disable=len(files) < 2):
            said.append(_one(file, next(folders), engine, reader, settings))
            typer.echo(json.dumps(said[-1]) if as_json else _line(said[-1]))
    return not any("error" in answer for answer in said)


def _folders(files: Sequence[Path], out: Path) -> Iterator[Path]:
    """OUT/STEM for each file; a stem met again gets a number, so that nothing is written over."""
    used: set[str] = set()
    for file in files:
        stem = file.stem.strip(".") or "film"  # "..dcm" must not lead outside OUT
        names = (stem, *(f"{stem}-{again}" for again in range(2, len(files) + 2)))
        name = next(name for name in names if name not in used)
        used.add(name)
        yield out / name


def _one(
    file: Path, folder: Path, engine: LocalEngine, reader: FilmReader, settings: Settings
) -> dict[str, object]:
    try:
        film = reader.read(file)
        request = Request(
            film=film.radiograph, mode=settings.mode, seed=settings.seed, unlike=Unlike.WITHHOLD
        )
        made = engine.explain([request])[0]
        paths = _write(folder, film, made)
    except (NodeError, PipelineError, OSError) as fault:
        return {"file": str(file), "error": str(fault)}
    answer = {"file": str(file), **_summary(made), "paths": paths}
    if film.source is None:
        return answer
    try:
        return {**answer, "paths": paths | _write_objects(folder, film.source, made)}
    except (NodeError, OSError) as fault:  # what was made of the picture is good all the same
        return {**answer, "error": f"no DICOM objects: {fault}"}


def _summary(made: Attribution) -> dict[str, object]:
    """What is said of a result; of one that is withheld no number of the film."""
    return {
        "status": made.status,
        "reasons": list(made.reasons),
        "threshold": made.threshold,
        **({} if made.status is Status.WITHHELD else _numbers(made)),
        "mode": made.model.mode,
        "seed": made.model.seed,
        "model": made.model.name,
        "model_version": made.model.version,
        "model_digest": made.model.digest,
    }


def _numbers(made: Attribution) -> dict[str, object]:
    return {
        "score": made.score,
        "uncertainty": made.uncertainty,
        "probability": made.probability,
        "conformal_p": made.conformal_p,
        "regions": [
            {
                "outline": [[round(r, 2), round(c, 2)] for r, c in region.outline],
                "area_px": region.area_px,
                "peak": region.peak,
                "mean": region.mean,
            }
            for region in made.regions
        ],
    }


def _write(folder: Path, film: FilmFile, made: Attribution) -> dict[str, str]:
    """Counterpart and map in the source's stored rows and columns; the overlay is upright, over
    words that say what it is.

    No picture is given of what is withheld: the overlay is the film, and there is no counterpart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"overlay": folder / "overlay.png", "map": folder / "map.npy"}
    counterpart = folder / "counterfactual.png"
    if made.status is Status.WITHHELD:
        shown = picture.film(film.radiograph)
        counterpart.unlink(missing_ok=True)  # of another time
    else:
        shown = picture.overlay(film.radiograph, made)
        paths["counterfactual"] = counterpart
        grey = (made.counterfactual * 255).round().astype(np.uint8)
        said = _said("Synthetic: the film's normal counterpart, made by a model.", made)
        marked.save(film.as_stored(grey), counterpart, said)
    said = _said("The film with what a model changes of it in colour.", made)
    marked.save(picture.with_status(shown, made), paths["overlay"], said)
    files.save_array(paths["map"], film.as_stored(made.attribution_map))
    return {name: str(path) for name, path in paths.items()}


def _said(what: str, made: Attribution) -> str:
    status = "; ".join((made.status.value, *made.reasons))
    return f"{what} Status {status}. {wording.model_line(made.model)}"


def _write_objects(folder: Path, source: Film, made: Attribution) -> dict[str, str]:
    context = ResultContext(
        header=source.header,
        radiograph=source.radiograph,
        attribution=made,
        analysis_key=_key(source, made),
        created_at=datetime.now(UTC),
    )
    paths = {"sc": folder / "sc.dcm", "sr": folder / "sr.dcm"}
    paths["sc"].write_bytes(registry.encode_checked(registry.build("secondary_capture", context)))
    paths["sr"].write_bytes(registry.encode_checked(registry.build("structured_report", context)))
    return {name: str(path) for name, path in paths.items()}


def _key(source: Film, made: Attribution) -> str:
    return uids.analysis_key(
        AnalysisInputs(
            sop_instance_uid=str(source.header.dataset.get("SOPInstanceUID", "")),
            identity_digest=uids.identity_digest(source.header.dataset),
            target="normal",
            model_digest=made.model.digest,
            calibration_digest="",
            mode=made.model.mode,
            seed=made.model.seed,
        )
    )


def _line(answer: dict[str, object]) -> str:
    if "error" in answer:
        return f"{answer['file']}: not analysed: {answer['error']}"
    if answer["status"] is Status.WITHHELD:
        reasons = answer["reasons"]
        why = "; ".join(reasons) if isinstance(reasons, list) else ""
        return f"{answer['file']}: WITHHELD, {why}"
    regions = answer["regions"]
    count = len(regions) if isinstance(regions, list) else 0
    return f"{answer['file']}: {answer['status']}, score {answer['score']:.3f}, {count} region(s)"
