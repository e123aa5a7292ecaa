"""A data folder of films of nobody, in the form that training and evaluation read."""

import csv
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from tests.pipeline import chests

BOX = (40.0, 60.0, 90.0, 110.0)  # x0, y0, x1, y1
SIDE = 224
_REPORTS = (
    "There is an opacity in the right lower lobe. No pleural effusion is seen.",
    "The lungs are clear. The heart is normal in size. No pneumothorax.",
)


def png(film: np.ndarray) -> bytes:
    """A film 0 .. 1 as a grey PNG."""
    file = io.BytesIO()
    Pillow.fromarray((film.clip(0, 1) * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def chest(seed: int, *, sick: bool) -> np.ndarray:
    """A chest with a bright square in `BOX`, or without."""
    film = chests.varied(np.random.default_rng(seed))
    if sick:
        x0, y0, x1, y1 = map(int, BOX)
        film[y0:y1, x0:x1] = 0.8
    return film


def table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def manifest(folder: Path, splits: Sequence[str], source: str = "nih-chestxray14") -> None:
    """cxr256: a film for each of `splits`, every other one sick but those of calibration."""
    (folder / "cxr256").mkdir()
    rows: list[dict[str, object]] = []
    for index, split in enumerate(splits):
        sick, name = index % 2 == 1 and split != "calibration", f"{index}.png"
        (folder / "cxr256" / name).write_bytes(png(chest(index, sick=sick)))
        label = "Lung_Opacity" if sick else "Normal"
        rows.append({"file": name, "tar": "", "split": split, "label": label, "source": source})
    table(folder / "cxr256" / "manifest.csv", rows)


def keep_only(folder: Path, label: str, split: str = "val") -> None:
    """Of the films of one split in cxr256 those of this label stay."""
    path = folder / "cxr256" / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table(path, [row for row in rows if row["split"] != split or row["label"] == label])


def localised(folder: Path, films: Sequence[tuple[str, str]], *, outlined: bool = False) -> None:
    """localised: a film for each (source, part), boxed unless it is of JSRT; with lung outlines."""
    root = folder / "localised"
    root.mkdir()
    images: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    pictures: dict[str, bytes] = {}
    for index, (source, part) in enumerate(films):
        sick, name = source != "jsrt", f"l{index}.png"
        pictures[name] = png(chest(100 + index, sick=sick))
        images.append({"file": name, "width": SIDE, "height": SIDE, "source": source, "part": part})
        if sick:
            place = dict(zip(("x0", "y0", "x1", "y1"), BOX, strict=True))
            boxes.append({"file": name, "finding": "Lung_Opacity", **place})
    table(root / "images.csv", images)
    table(root / "boxes.csv", boxes)
    _archive(root / "images.tar", pictures)
    if outlined:
        _archive(root / "lungs.tar", dict.fromkeys(pictures, png(chests.lungs().astype(float))))


def reports(folder: Path) -> None:
    """reports: two of them."""
    (folder / "reports").mkdir()
    rows = [{"split": "train", "findings": text, "impression": ""} for text in _REPORTS]
    table(folder / "reports" / "indiana_reports.csv", rows)


def _archive(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
