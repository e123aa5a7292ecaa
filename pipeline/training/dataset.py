"""What tables say of films and their boxes, for training and judging; pictures has the pixels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.prompts import Finding
from pipeline.training import tables

_MANIFEST_COLUMNS = {"file", "tar", "split", "label", "source"}
_NEVER_EMPTY = ("file", "label", "source")
_SPLITS = {"train", "calibration", "val", "test"}
_PARTS = {"train", "dev", "test"}
_CHOSEN_BY = ("val", "calibration")
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

BOXED: Mapping[str, tuple[str, Finding]] = {
    "Tuberculosis": ("Tuberculosis", "tuberculosis"),
    "ActiveTuberculosis": ("Tuberculosis", "tuberculosis"),
    "ObsoletePulmonaryTuberculosis": ("Tuberculosis", "tuberculosis"),
    "Lung_Opacity": ("Lung_Opacity", "opacity"),
    "Ground_Glass_Opacities": ("Lung_Opacity", "opacity"),
    "Infiltration": ("Lung_Opacity", "opacity"),
    "Consolidation": ("Lung_Opacity", "consolidation"),
    "Pneumonia": ("Other_Pneumonia", "pneumonia"),
    "Nodule": ("Other_Abnormal", "nodule"),
    "Mass": ("Other_Abnormal", "opacity"),  # one of more than 30 mm (Fleischner glossary, 2008)
}
"""What may be in a box that is learnt from: the label of a film of it, and the prompts' word."""

Kin = frozenset[tuple[str, str]]
"""(group, patient or original, its name) of films; an empty name is nobody's."""

_ORIGINAL = "sha256_original"
_KIN = {"group": "group_id", "patient": "patient_id", "original file": _ORIGINAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """Whose film it is, as far as it is told; `original` is the digest of the source's file."""

    group: str = ""
    patient: str = ""
    original: str = ""

    @property
    def kin(self) -> Kin:
        """What it has in common with films that must not be judged by where it is learnt from."""
        known = {"group": self.group, "patient": self.patient, "original": self.original}
        return frozenset((what, name) for what, name in known.items() if name)

    @property
    def whose(self) -> str:
        """Whose films its own counts with: its group's, else its patient's; empty is nobody's."""
        return self.group or (self.patient and f"patient {self.patient}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmRow(_Row):
    """One row of a manifest: `tar` is an archive or a folder beside it, or empty: `file` is."""

    file: str
    tar: str
    split: str
    label: str
    source: str
    view: str
    flags: frozenset[str]

    @property
    def paediatric(self) -> bool:
        """Whether the film is a child's."""
        return "paediatric" in self.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A lesion's rectangle in fractions of the square image, origin top left.

    `mask` names the picture that outlines it, if there is one.
    """

    finding: str
    x0: float
    y0: float
    x1: float
    y1: float
    mask: str = field(default="", repr=False)  # no part of what pools of lessons are made of


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalisedRow(_Row):
    """One film of a localised set with the boxes drawn on it (none: a normal film).

    `size` is the width and height that boxes are pixels of, where the table tells them.
    """

    file: str
    source: str
    part: str
    boxes: tuple[Box, ...]
    size: tuple[float, float] | None = None


def kin_of(rows: Iterable[FilmRow | LocalisedRow]) -> Kin:
    """The kin of all these films together."""
    return frozenset().union(*(row.kin for row in rows))


def read_manifest(path: Path) -> list[FilmRow]:
    """The rows of a manifest CSV.

    Raises:
        DatasetError: it is no such table or empty; a column, split or label is missing or unknown;
            a film of calibration is not Normal, one is listed twice, or a group, a patient or an
            original file is in more than one split. Up to ten lines are named with their files.
    """
    records = tables.read(path, _MANIFEST_COLUMNS)
    empty = [r for r in records if not all(r[1][column] for column in _NEVER_EMPTY)]
    tables.refuse(path, "row without file, label or source", tables.named(empty))
    strange = [r for r in records if r[1]["split"] not in _SPLITS]
    tables.refuse(path, f"unknown split (not {tables.listed(_SPLITS)})", tables.named(strange))
    strange = [r for r in records if r[1]["label"] not in LABELS]
    tables.refuse(path, f"unknown label (not {tables.listed(LABELS)})", tables.named(strange))
    sick = [r for r in records if r[1]["split"] == "calibration" and r[1]["label"] != "Normal"]
    tables.refuse(path, "film of split calibration that is not Normal", tables.named(sick))
    tables.refuse(path, "film listed twice", tables.named(tables.same_files(records)))
    _demand_apart(path, records, "split")
    return [_film_row(record) for _, record in records]


def _demand_apart(path: Path, records: Sequence[tables.Numbered], split: str) -> None:
    """Nobody's films, nor copies of one, are on both sides; rows are named, never who it is."""
    for what, column in _KIN.items():
        strays = tables.leaking(records, column, split)
        tables.refuse(path, f"{what} in more than one {split}", tables.named(strays))


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
        original=record.get(_ORIGINAL, ""),
    )


def read_localised(folder: Path) -> list[LocalisedRow]:
    """The films of a localised set: `images.csv` with `boxes.csv` beside it.

    Raises:
        DatasetError: a file or column is missing, a part is unknown, a film is listed twice, a
            group, a patient or an original file is in more than one part, or a box names no known
            film, does not lie within it, or is of part train and of a finding that is not known.
    """
    path = folder / "images.csv"
    images = tables.read(path, {"file", "width", "height", "source", "part"})
    strange = [r for r in images if r[1]["part"] not in _PARTS]
    tables.refuse(path, f"unknown part (not {tables.listed(_PARTS)})", tables.named(strange))
    tables.refuse(path, "film listed twice", tables.named(tables.same_files(images)))
    _demand_apart(path, images, "part")
    sizes = {record["file"]: _size(record) for _, record in images}
    tables.refuse(
        path, "width or height is no length", tables.named([r for r in images if not _size(r[1])])
    )
    _demand_known_findings(folder / "boxes.csv", images)
    return _localised_rows(images, _boxes(folder / "boxes.csv", sizes))


def demand_apart(rows: Sequence[FilmRow], localised: Sequence[LocalisedRow]) -> None:
    """No film that is judged by is of a group, a patient or a file that is learnt from.

    Nor is one that is reported on, of part test, of any by which the threshold was set or choices
    were made.

    Raises:
        DatasetError: one is; up to ten are named.
    """
    path = Path("localised/images.csv")
    learnt = kin_of(row for row in rows if row.split == "train")
    leaks = [row.file for row in localised if row.part != "train" and row.kin & learnt]
    of_whom = "of a group, patient or file that the manifest has"
    tables.refuse(path, f"film of part dev or test {of_whom} in train", leaks)
    chosen = kin_of(row for row in rows if row.split in _CHOSEN_BY)
    leaks = [row.file for row in localised if row.part == "test" and row.kin & chosen]
    tables.refuse(path, f"film of part test {of_whom} in {' or '.join(_CHOSEN_BY)}", leaks)
    judged = kin_of(row for row in rows if row.split != "train")
    leaks = [row.file for row in localised if row.part == "train" and row.kin & judged]
    tables.refuse(path, f"film of part train {of_whom} in another split", leaks)


def _size(record: tables.Record) -> tuple[float, float] | None:
    """Width and height of a film in pixels; None if they are none."""
    width, height = _number(record["width"]), _number(record["height"])
    return (width, height) if 0 < width < math.inf and 0 < height < math.inf else None


def _boxes(path: Path, sizes: Mapping[str, tuple[float, float] | None]) -> dict[str, list[Box]]:
    """The boxes of each film."""
    records = tables.read(path, {"file", "finding", "x0", "y0", "x1", "y1"}, may_be_empty=True)
    strays = [r for r in records if r[1]["file"] not in sizes]
    tables.refuse(path, "box of a film that images.csv does not list", tables.named(strays))
    boxes: dict[str, list[Box]] = {}
    wrong = []
    for number, record in records:
        size = sizes[record["file"]]
        box = _box(record, *size) if size else None
        if box is None:
            wrong.append((number, record))
        else:
            boxes.setdefault(record["file"], []).append(box)
    tables.refuse(
        path, "not x0 < x1 and y0 < y1 within the film, in its pixels", tables.named(wrong)
    )
    return boxes


def _demand_known_findings(path: Path, images: Sequence[tables.Numbered]) -> None:
    """Whatever is boxed on a film that is learnt from has a label and a word."""
    learnt = {record["file"] for _, record in images if record["part"] == "train"}
    records = tables.read(path, {"file", "finding"}, may_be_empty=True)
    strange = [r for r in records if r[1]["file"] in learnt and r[1]["finding"] not in BOXED]
    what = f"unknown finding of a film of part train (not {tables.listed(BOXED)})"
    tables.refuse(path, what, tables.named(strange))


def _localised_rows(
    images: Sequence[tables.Numbered], boxes: Mapping[str, Sequence[Box]]
) -> list[LocalisedRow]:
    return [
        LocalisedRow(
            file=record["file"],
            size=_size(record),
            source=record["source"],
            part=record["part"],
            boxes=tuple(boxes.get(record["file"], ())),
            group=record.get("group_id", ""),
            patient=record.get("patient_id", ""),
            original=record.get(_ORIGINAL, ""),
        )
        for _, record in images
    ]


def _box(record: tables.Record, width: float, height: float) -> Box | None:
    """A box as fractions of the square around its film; None if it does not lie within the film."""
    x0, y0, x1, y1 = (_number(record[name]) for name in ("x0", "y0", "x1", "y1"))
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        return None
    side = max(width, height)
    x0, x1 = ((x + (side - width) / 2) / side for x in (x0, x1))
    y0, y1 = ((y + (side - height) / 2) / side for y in (y0, y1))
    mask = record.get("mask", "")
    return Box(finding=record["finding"], x0=x0, y0=y0, x1=x1, y1=y1, mask=mask)


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
