"""Films to send: synthetic ones, made whole."""

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_node.admin import sample
from dicom_node.wiring import now


def chest_like(side: int = 256) -> np.ndarray:
    """Two dark ovals in a bright body on black: what the tiny model takes for a chest."""
    rows, cols = np.indices((side, side)) / side
    body = np.hypot((rows - 0.55) / 0.6, (cols - 0.5) / 0.45) < 1
    film = np.where(body, 0.7, 0.05)
    for centre in (0.32, 0.68):
        film[np.hypot((rows - 0.5) / 0.28, (cols - centre) / 0.13) < 1] = 0.25
    return film.astype(np.float32)


def dx(**attributes: object) -> Dataset:
    """A DX film of nobody, 1024 x 1024, not marked as synthetic: it stands in for a real one."""
    ds = sample.as_dx(chest_like(), now())
    for keyword in ("SyntheticData", "ContentQualification"):
        delattr(ds, keyword)
    ds.Manufacturer = "Phantom"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def written(ds: Dataset, folder: Path) -> Path:
    """The data set as a Part 10 file."""
    path = folder / f"{generate_uid()}.dcm"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return path
