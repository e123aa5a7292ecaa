"""`vald-node attribute`: files in, counterpart, overlay, map and objects out; no PACS needed."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import typer
from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from dicom_node import config, uids
from dicom_node.decoder import Decoder
from dicom_node.errors import InputError, NodeError
from dicom_node.radiograph import Film
from dicom_node.results import picture, registry
from dicom_node.results.provenance import ResultContext
from dicom_node.uids import AnalysisInputs
from pipeline import digest
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.errors import PipelineError
from pipeline.types import Attribution, Mode, Radiograph

_PICTURES = {".png", ".jpg", ".jpeg"}
_LEAST_SIDE_PX, _MOST_SIDE_PX = 128, 20_000  # as for DICOM films
_DECODE_TIMEOUT_S, _DECODE_MEMORY_BYTES = 120.0, 8 << 30
_WHITE_OF_16_BITS = 65535.0


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
    reader = Decoder(timeout_s=_DECODE_TIMEOUT_S, memory_bytes=_DECODE_MEMORY_BYTES)
    console = Console(stderr=True)
    said: list[dict[str, object]] = []
    try:
        folders = _folders(files, out)
        for file in track(files, "attributing", console=console, disable=len(files) < 2):
            said.append(_one(file, next(folders), engine, reader, settings))
            typer.echo(json.dumps(said[-1]) if as_json else _line(said[-1]))
    finally:
        reader.close()
        engine.close()
    return not any("error" in answer for answer in said)


def _folders(files: Sequence[Path], out: Path) -> Iterator[Path]:
    """OUT/STEM for each file; a stem met again gets a number, so that nothing is written over."""
    met: Counter[str] = Counter()
    for file in files:
        met[file.stem] += 1
        again = met[file.stem]
        yield out / (file.stem if again == 1 else f"{file.stem}-{again}")


def _one(
    file: Path, folder: Path, engine: LocalEngine, reader: Decoder, settings: Settings
) -> dict[str, object]:
    try:
        if file.suffix.lower() in _PICTURES:
            film, header = _read_picture(file), None
        else:
            header = reader.read(file)
            film = header.radiograph
        request = Request(film=film, mode=settings.mode, seed=settings.seed)
        made = engine.explain([request])[0]
        paths = _write(folder, film, made, header)
    except (NodeError, PipelineError, OSError) as fault:
        return {"file": str(file), "error": str(fault)}
    return {"file": str(file), **_summary(made), "paths": paths}


def _summary(made: Attribution) -> dict[str, object]:
    return {
        "score": made.score,
        "status": made.status,
        "reasons": list(made.reasons),
        "threshold": made.threshold,
        "uncertainty": made.uncertainty,
        "regions": [
            {
                "outline": [[round(r, 2), round(c, 2)] for r, c in region.outline],
                "area_px": region.area_px,
                "peak": region.peak,
                "mean": region.mean,
            }
            for region in made.regions
        ],
        "mode": made.model.mode,
        "seed": made.model.seed,
        "model": made.model.name,
        "model_version": made.model.version,
        "model_digest": made.model.digest,
    }


def _write(
    folder: Path, film: Radiograph, made: Attribution, source: Film | None
) -> dict[str, str]:
    """Counterpart and map in the source's stored rows and columns; the overlay is upright."""
    folder.mkdir(parents=True, exist_ok=True)
    turn = source.header.orientation.to_source if source else np.asarray
    paths = {name: folder / f"{name}.png" for name in ("counterfactual", "overlay")}
    grey = (made.counterfactual * 255).round().astype(np.uint8)
    Pillow.fromarray(np.ascontiguousarray(turn(grey))).save(paths["counterfactual"])
    Pillow.fromarray(picture.overlay(film, made)).save(paths["overlay"])
    paths["map"] = folder / "map.npy"
    np.save(paths["map"], np.ascontiguousarray(turn(made.attribution_map)))
    if source is not None:
        paths |= _write_objects(folder, source, made)
    return {name: str(path) for name, path in paths.items()}


def _write_objects(folder: Path, source: Film, made: Attribution) -> dict[str, Path]:
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
    return paths


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


def _read_picture(file: Path) -> Radiograph:
    """A PNG or JPEG as a film; 16-bit greys keep their depth.

    Raises:
        InputError: it cannot be decoded, is in colour, too small, too large, or constant.
    """
    try:
        with Pillow.open(file) as picture_file:
            _demand_size(*picture_file.size)
            plane = _grey(picture_file)
    except (
        UnidentifiedImageError,
        SyntaxError,
        ValueError,  # such as a compressed comment that swells without end
        Pillow.DecompressionBombError,
    ) as fault:
        raise InputError(f"not a readable picture: {fault}") from fault
    if plane.min() == plane.max():
        raise InputError("constant image: every pixel has the same value")
    return Radiograph(pixels=plane)


def _grey(image: Pillow.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.asarray(image, np.float32) / np.float32(_WHITE_OF_16_BITS)
    rgb = np.asarray(image.convert("RGB"), np.float32) / 255
    if np.ptp(rgb, axis=2).max() > 0.1:  # JPEG leaves greys with a trace of colour
        raise InputError("colour image: a radiograph is grey")
    return np.asarray(rgb.mean(2), np.float32)


def _demand_size(cols: int, rows: int) -> None:
    if min(rows, cols) < _LEAST_SIDE_PX:
        raise InputError(f"too small: {rows} x {cols} pixels, at least {_LEAST_SIDE_PX} a side")
    if max(rows, cols) > _MOST_SIDE_PX:
        raise InputError(f"too large: {rows} x {cols} pixels, at most {_MOST_SIDE_PX} a side")


def _line(answer: dict[str, object]) -> str:
    if "error" in answer:
        return f"{answer['file']}: not analysed: {answer['error']}"
    regions = answer["regions"]
    count = len(regions) if isinstance(regions, list) else 0
    return f"{answer['file']}: {answer['status']}, score {answer['score']:.3f}, {count} region(s)"
