"""A synthetic chest-like picture, and data sets and files made of it. No real film is here."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openjpeg.utils
import pydicom
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

ROWS, COLUMNS = 128, 160
Image = npt.NDArray[np.uint16]
Encoder = Callable[[Dataset, Path], Path]
"""Writes a native data set to a file of this folder, coded."""


def picture(bits: int = 12) -> Image:
    """[128, 160] values over most of `bits`: two dark lungs, a mark at the upper left corner.

    The mark makes every one of the eight turns another picture.
    """
    row, col = np.mgrid[:ROWS, :COLUMNS].astype(float)
    grey = 0.7 + 0.2 * np.cos(row / 40) * np.cos(col / 50)
    for centre in (45, 115):
        grey -= 0.5 * np.exp(-(((row - 60) / 30) ** 2) - ((col - centre) / 18) ** 2)
    grey[4:12, 4:24] = 0.95
    return np.asarray(np.round(grey * ((1 << bits) - 1)), np.uint16)


def data_set(stored: npt.NDArray[np.integer] | None = None, bits: int = 12) -> Dataset:
    """A Digital X-Ray Image data set with these stored values; only what decoding needs."""
    stored = picture(bits) if stored is None else stored
    ds = Dataset()
    ds.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = "2.25.1"
    ds.PatientName = "Phantom^Synthetic"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 8 * stored.itemsize
    ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    put_pixels(ds, stored.tobytes())
    return ds


def put_pixels(ds: Dataset, pixels: bytes) -> None:
    """Uncompressed little-endian pixel data, padded to even length."""
    ds.add_new(
        "PixelData", "OB" if ds.BitsAllocated == 8 else "OW", pixels + bytes(len(pixels) % 2)
    )


def put_frame(ds: Dataset, frame: bytes) -> None:
    """Encapsulated pixel data of one frame in one fragment."""
    ds.PixelData = pydicom.encaps.encapsulate([frame + bytes(len(frame) % 2)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


def write(ds: Dataset, path: Path, syntax: str = uid.ExplicitVRLittleEndian) -> Path:
    """A Part 10 file; the pixel data must already be in the syntax."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return path


def dcmtk(tool: str, *arguments: str | Path) -> None:
    """Runs the system's DCMTK tool; pynetdicom's scripts of like names are in the environment."""
    program = shutil.which(tool, path="/usr/local/bin:/usr/bin:/bin")
    assert program is not None
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=30)


def coding(tool: str, *options: str) -> Encoder:
    """By DCMTK's tool, with these options."""

    def encode(ds: Dataset, folder: Path) -> Path:
        dcmtk(tool, *options, write(ds, folder / "plain.dcm"), folder / "coded.dcm")
        return folder / "coded.dcm"

    return encode


def coding_j2k(syntax: str, ratio: float | None = None) -> Encoder:
    """In JPEG 2000, compressed to this ratio, or without loss."""

    def encode(ds: Dataset, folder: Path) -> Path:
        frame = openjpeg.utils.encode_array(
            np.frombuffer(ds.PixelData, np.uint16).reshape(ds.Rows, ds.Columns),
            bits_stored=ds.BitsStored,
            compression_ratios=None if ratio is None else [ratio],
        )
        put_frame(ds, bytes(frame))
        return write(ds, folder / "j2k.dcm", syntax)

    return encode
