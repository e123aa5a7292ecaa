"""`vald-node render`: any result as a picture, or as text or HTML."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pydicom
from PIL import Image as Pillow
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node import attributes, radiograph
from dicom_node.errors import InputError
from dicom_node.radiograph import Film
from dicom_node.results import reading, rendering
from dicom_node.results.colour import Pixels


def render(objects: Sequence[Path], out: Path, film: Path | None, *, html: bool) -> list[Path]:
    """What was written for each object, in their order.

    Raises:
        InputError: an object cannot be shown, and which; those before it are written. Two have
            one name, and nothing is.
    """
    _check_names(objects)
    ground = radiograph.read(film) if film is not None else None
    out.mkdir(parents=True, exist_ok=True)
    return [_render(path, out, ground, html=html) for path in objects]


def _check_names(objects: Sequence[Path]) -> None:
    """What is written is named after each object: of two with one name, one would be lost."""
    for stem, times in Counter(path.stem for path in objects).most_common(1):
        if times > 1:
            raise InputError(f"{times} objects are named {stem}: give each a folder of its own")


def _render(path: Path, out: Path, ground: Film | None, *, html: bool) -> Path:
    try:
        return _write(path, pydicom.dcmread(path), out, ground, html=html)
    except (InvalidDicomError, InputError, OSError, *attributes.UNREADABLE) as fault:
        said = fault if isinstance(fault, InputError) else "it cannot be read as DICOM"
        raise InputError(f"{path.name}: {said}") from fault


def _write(path: Path, ds: Dataset, out: Path, ground: Film | None, *, html: bool) -> Path:
    if ds.SOPClassUID in rendering.DOCUMENTS:
        written = out / f"{path.stem}.{'html' if html else 'txt'}"
        words = reading.as_html(ds) if html else reading.as_text(ds) + "\n"
        written.write_text(words, encoding="utf-8")
        return written
    written = out / f"{path.stem}.png"
    Pillow.fromarray(_pixels(path, ds, ground)).save(written)
    return written


def _pixels(path: Path, ds: Dataset, ground: Film | None) -> Pixels:
    if attributes.code(ds, "SyntheticData") == "YES":
        return rendering.as_picture(ds, ground)
    return rendering.film_picture(radiograph.read(path))
