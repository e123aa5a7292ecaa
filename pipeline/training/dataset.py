"""Films and boxes for training and judging, read from a manifest and its archives."""

import csv
import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import DatasetError
from pipeline.preprocess import GRID

Films = npt.NDArray[np.uint8]
"""[n, GRID, GRID] uint8, 0 black .. 255 white, letterboxed."""

_MANIFEST_COLUMNS = {"file", "tar", "split", "label", "source"}
_NEVER_EMPTY = ("file", "label", "source")
_SPLITS = {"train", "calibration", "val", "test"}
LABELS = {
    "Normal",
    "COVID",
    "Viral_Pneumonia",
    "Bacterial_Pneumonia",
    "Other_Pneumonia",
    "Lung_Opacity",
    "Tuberculosis",
    "Other_Abnormal",
}
"""What a film may be called; Normal means that nothing was found, all others that something was."""

_MOST_ROWS_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmRow:
    """One row of a manifest; an empty `tar` means that `file` lies beside the manifest."""

    file: str
    tar: str
    split: str
    label: str
    source: str
    group: str
    patient: str
    view: str
    flags: frozenset[str]

    @property
    def paediatric(self) -> bool:
        """Whether the film is a child's."""
        return "paediatric" in self.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A lesion's rectangle in fractions of the square image, origin top left."""

    finding: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalisedRow:
    """One film of a localised set with the boxes drawn on it (none: a normal film)."""

    file: str
    source: str
    part: str
    boxes: tuple[Box, ...]


def read_manifest(path: Path) -> list[FilmRow]:
    """The rows of a manifest CSV.

    Raises:
        DatasetError: a column, split or label is missing or unknown, or a group or a patient is in
            more than one split; up to ten rows are named.
    """
    records = _read_csv(path, _MANIFEST_COLUMNS)
    empty = [r["file"] for r in records if not all(r[column] for column in _NEVER_EMPTY)]
    _refuse(path, "row without file, label or source", empty)
    rows = [_film_row(record) for record in records]
    _refuse(path, "unknown split", [r.file for r in rows if r.split not in _SPLITS])
    known = ", ".join(sorted(LABELS))
    _refuse(path, f"unknown label (not {known})", [r.file for r in rows if r.label not in LABELS])
    _refuse(path, "group in more than one split", _leaking(rows, lambda row: row.group))
    _refuse(path, "patient in more than one split", _leaking(rows, lambda row: row.patient))
    return rows


def _film_row(record: dict[str, str]) -> FilmRow:
    return FilmRow(
        file=record["file"],
        tar=record["tar"],
        split=record["split"],
        label=record["label"],
        source=record["source"],
        group=record.get("group_id", ""),
        patient=record.get("patient_id", ""),
        view=record.get("view", ""),
        flags=frozenset(filter(None, record.get("flags", "").split(";"))),
    )


def _leaking(rows: Iterable[FilmRow], kin: Callable[[FilmRow], str]) -> list[str]:
    """What several rows share though it must stay in one split; an empty name is nobody's."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        if name := kin(row):
            splits.setdefault(name, set()).add(row.split)
    return sorted(name for name, found in splits.items() if len(found) > 1)


def read_localised(folder: Path) -> list[LocalisedRow]:
    """The films of a localised set: `images.csv` with `boxes.csv` beside it.

    Raises:
        DatasetError: a file or column is missing, or a box names no known film.
    """
    images = _read_csv(folder / "images.csv", {"file", "width", "height", "source", "part"})
    boxes: dict[str, list[dict[str, str]]] = {record["file"]: [] for record in images}
    strays = []
    for box in _read_csv(folder / "boxes.csv", {"file", "finding", "x0", "y0", "x1", "y1"}):
        if box["file"] in boxes:
            boxes[box["file"]].append(box)
        else:
            strays.append(box["file"])
    _refuse(folder / "boxes.csv", "box of a film that images.csv does not list", strays)
    try:
        return _localised_rows(images, boxes)
    except (ValueError, ZeroDivisionError) as fault:
        raise DatasetError(f"{folder}: a size or box that is no number: {fault}") from fault


def _localised_rows(
    images: list[dict[str, str]], boxes: dict[str, list[dict[str, str]]]
) -> list[LocalisedRow]:
    return [
        LocalisedRow(
            file=record["file"],
            source=record["source"],
            part=record["part"],
            boxes=tuple(
                _box(box, float(record["width"]), float(record["height"]))
                for box in boxes[record["file"]]
            ),
        )
        for record in images
    ]


def _box(record: dict[str, str], width: float, height: float) -> Box:
    return Box(
        finding=record["finding"],
        x0=float(record["x0"]) / width,
        y0=float(record["y0"]) / height,
        x1=float(record["x1"]) / width,
        y1=float(record["y1"]) / height,
    )


def load_films(folder: Path, members: Sequence[tuple[str, str]]) -> Films:
    """The films named by (archive, file), each scaled to the model grid.

    Raises:
        DatasetError: a film is missing or cannot be decoded; up to ten are named.
    """
    films = np.zeros((len(members), GRID, GRID), np.uint8)
    faults: list[str] = []
    archives: dict[str, tarfile.TarFile] = {}
    try:
        for index, (tar, file) in enumerate(members):
            try:
                films[index] = _load_film(folder, archives, tar, file)
            except (OSError, KeyError, tarfile.TarError) as fault:
                faults.append(f"{tar or folder}:{file} ({fault})")
    finally:
        for archive in archives.values():
            archive.close()
    _refuse(folder, "film missing or not decodable", faults)
    return films


def load_members(
    archive: Path, files: Sequence[str], decode: Callable[[Image.Image], Films]
) -> list[Films]:
    """Every named member of one archive, decoded by `decode`."""
    with tarfile.open(archive) as tar:
        return [decode(_open_member(tar, file)) for file in files]


def _load_film(folder: Path, archives: dict[str, tarfile.TarFile], tar: str, file: str) -> Films:
    if not tar:
        return _to_grid(Image.open(folder / file))
    if tar not in archives:
        archives[tar] = tarfile.open(folder / tar)  # noqa: SIM115 - closed by load_films
    return _to_grid(_open_member(archives[tar], file))


def _open_member(archive: tarfile.TarFile, file: str) -> Image.Image:
    member = archive.extractfile(file)
    if member is None:
        raise KeyError(file)
    return Image.open(io.BytesIO(member.read()))


def _to_grid(image: Image.Image) -> Films:
    return np.asarray(image.convert("L").resize((GRID, GRID), Image.Resampling.LANCZOS))


def _read_csv(path: Path, columns: set[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            missing = columns - set(reader.fieldnames or ())
            _refuse(path, "missing column", sorted(missing))
            return list(reader)
    except OSError as fault:
        raise DatasetError(f"{path}: cannot be read: {fault.strerror}") from fault


def _refuse(path: Path, what: str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:_MOST_ROWS_NAMED])
        more = f" and {len(names) - _MOST_ROWS_NAMED} more" if len(names) > _MOST_ROWS_NAMED else ""
        raise DatasetError(f"{path}: {what}: {shown}{more}")
