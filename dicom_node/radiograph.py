"""A CR, DX or secondary-capture instance as a header to keep and a radiograph to analyse."""

import hashlib
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom import DataElement, Dataset, uid
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.tag import BaseTag

from dicom_node import attributes, greyscale, orientation, pixels, shutter
from dicom_node.errors import InputError
from dicom_node.orientation import Orientation
from pipeline.types import Radiograph

__all__ = ["Film", "Orientation", "SourceHeader", "read", "read_header"]

_BULK_BYTES = 65_536
"""Elements longer than this are no header; the largest LUT data allowed is kept apart from it."""
_PRIVATE_BULK_BYTES = 4_096
_LUT_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")
_IMAGE_BULK = frozenset({0x00880200, 0x7FE00008, 0x7FE00009, 0x7FE00010, 0xFFFCFFFC})
"""IconImageSequence, (Double) FloatPixelData, PixelData, DataSetTrailingPadding."""

_HEADER_BYTES = 1 << 24
"""Inflated at most for a header: the pixels come last, so only a lie needs more."""
_DATA_SET_BYTES = 1 << 30
"""Inflated at most for a film: more than 20,000 x 20,000 px of 16 bits with its header."""

_LEAST_MM, _MOST_MM = 1e-3, 1e4  # between pixels; also bounds an aspect ratio of small numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHeader:
    """What is kept of a received instance beside its pixels; patient data, for the node only.

    `dataset` has neither pixels nor other bulk; `left_out` are the keywords of what it lacks beside
    the picture's own, as too long or unreadable. `rows`, `columns`, `spacing_mm` (between rows,
    between columns) and `aspect` (their ratio, 1.0 where unknown) are the stored image's;
    `orientation` leads to the upright one. `spacing_plane` is "calibrated", "detector" or "" (PS3.3
    10.7.1.3). Of an object that is no image, rows and columns are 0.
    """

    dataset: Dataset
    left_out: frozenset[str]
    transfer_syntax_uid: str
    rows: int
    columns: int
    orientation: Orientation
    spacing_mm: tuple[float, float] | None
    spacing_plane: str
    aspect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A decoded instance: its header, and its upright radiograph without patient data."""

    header: SourceHeader
    radiograph: Radiograph


def read_header(path: Path) -> SourceHeader:
    """The header of a Part 10 file, or of a bare data set, without reading its pixels.

    Raises:
        InputError: the file is no DICOM object, or is cut short within its header.
        OSError: the file cannot be opened or read.
    """
    return _header(_load(path, with_pixels=False))


def stored_pixels(path: Path) -> tuple[str, str]:
    """The transfer syntax, and SHA-256 of the pixel data as stored in it; "" where there are none.

    Pixel data that is not compressed is alike in all transfer syntaxes: Explicit VR Little Endian.

    Raises:
        InputError: the file is no DICOM object, or is cut short.
        OSError: the file cannot be opened or read.
    """
    ds = _load(path, with_pixels=True)
    syntax, data = _transfer_syntax_uid(ds), attributes.binary(ds, "PixelData") or b""
    if pixels.is_native(syntax):
        syntax, data = str(uid.ExplicitVRLittleEndian), pixels.little_endian(ds, syntax)
    return syntax, hashlib.sha256(data).hexdigest() if data else ""


def read(path: Path) -> Film:
    """The film ready to be analysed: upright, 0 black .. 1 white.

    Raises:
        InputError: it cannot be analysed, and why.
        OSError: the file cannot be opened or read.
    """
    ds = _load(path, with_pixels=True)
    stored = pixels.stored_values(ds, _transfer_syntax_uid(ds))
    header = _header(ds)
    mask = shutter.picture_mask(ds, stored, header.aspect)
    upright = header.orientation.to_upright(greyscale.to_grey(ds, stored, mask))
    radiograph = Radiograph(
        pixels=np.ascontiguousarray(upright, np.float32),
        spacing_mm=_upright_spacing(header),
        spacing_plane=header.spacing_plane,
    )
    return Film(header=header, radiograph=radiograph)


def _upright_spacing(header: SourceHeader) -> tuple[float, float] | None:
    """Distances between the upright image's rows and columns.

    Where only PixelAspectRatio is known they are relative, and `spacing_plane` is "".
    """
    spacing = header.spacing_mm
    if spacing is None and header.aspect != 1:
        spacing = (header.aspect, 1.0)
    if spacing is None or not header.orientation.transposed:
        return spacing
    return spacing[1], spacing[0]


def _load(path: Path, *, with_pixels: bool) -> Dataset:
    with path.open("rb"):
        pass  # a file that cannot be opened is the disk's fault, not the sender's
    try:
        ds = _parsed(path, with_pixels=with_pixels)
        ds.get("PixelData")  # pydicom looks at a value's representation on first access only
    except attributes.UNREADABLE as error:
        if attributes.is_the_machines(error):
            raise
        raise InputError("The file is no DICOM object, or is cut short.") from error
    if "SOPClassUID" not in ds and "Rows" not in ds:
        raise InputError("The file is no DICOM object, or is cut short.")
    return ds


def _parsed(path: Path, *, with_pixels: bool) -> Dataset:
    meta = _file_meta(path)
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return pydicom.dcmread(path, force=True, stop_before_pixels=not with_pixels)
    inflated = _inflated(path, meta, _DATA_SET_BYTES if with_pixels else _HEADER_BYTES)
    ds = pydicom.dcmread(inflated, force=True, stop_before_pixels=not with_pixels)
    ds.file_meta = meta
    return ds


def _file_meta(path: Path) -> pydicom.dataset.FileMetaDataset:
    """The File Meta Information; empty for a bare data set without preamble."""
    try:
        return read_file_meta_info(path)
    except InvalidDicomError:
        return pydicom.dataset.FileMetaDataset()


def _inflated(path: Path, meta: pydicom.dataset.FileMetaDataset, limit_bytes: int) -> BytesIO:
    """The deflated data set (PS3.5 A.5), bounded: pydicom would inflate whatever is claimed."""
    # Preamble 128, prefix 4, group length element 12 bytes (PS3.10 7.1).
    start = 144 + int(meta.FileMetaInformationGroupLength)
    return BytesIO(
        zlib.decompressobj(-zlib.MAX_WBITS).decompress(path.read_bytes()[start:], limit_bytes)
    )


def _header(ds: Dataset) -> SourceHeader:
    rows, columns = (attributes.integer(ds, side) or 0 for side in ("Rows", "Columns"))
    spacing_mm, spacing_plane = _spacing(ds)
    kept = _without_bulk(ds)
    lacks = (tag for tag in ds.keys() - kept.keys() if not _is_of_picture(tag))
    return SourceHeader(
        dataset=kept,
        left_out=frozenset(map(pydicom.datadict.keyword_for_tag, lacks)),
        transfer_syntax_uid=_transfer_syntax_uid(ds),
        rows=rows,
        columns=columns,
        orientation=orientation.of(ds, rows, columns),
        spacing_mm=spacing_mm,
        spacing_plane=spacing_plane,
        aspect=spacing_mm[0] / spacing_mm[1] if spacing_mm else _aspect(ds),
    )


def _transfer_syntax_uid(ds: Dataset) -> str:
    """As the file meta group states, else as the bare data set was found to be encoded."""
    stated = getattr(ds, "file_meta", Dataset()).get("TransferSyntaxUID")
    if stated:
        return str(stated)
    match ds.original_encoding:
        case (_, False):
            return str(uid.ExplicitVRBigEndian)
        case (False, _):
            return str(uid.ExplicitVRLittleEndian)
    return str(uid.ImplicitVRLittleEndian)


def _spacing(ds: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Distances between rows and between columns in mm, and the plane they are measured in.

    PixelSpacing equal to ImagerPixelSpacing without a calibration type is the detector's,
    repeated (PS3.3 10.7.1.3).
    """
    stated = _pair_mm(ds, "PixelSpacing")
    detector = _pair_mm(ds, "ImagerPixelSpacing") or _pair_mm(ds, "NominalScannedPixelSpacing")
    if stated is None:
        return detector, "detector" if detector else ""
    repeated = stated == _pair_mm(ds, "ImagerPixelSpacing")
    if repeated and not attributes.code(ds, "PixelSpacingCalibrationType"):
        return stated, "detector"
    return stated, "calibrated"


def _pair_mm(ds: Dataset, keyword: str) -> tuple[float, float] | None:
    """Two distances that can be; senders write 0\\0, or nonsense, for unknown."""
    values = attributes.numbers(ds, keyword)
    if len(values) != 2 or not _LEAST_MM <= min(values) <= max(values) <= _MOST_MM:
        return None
    return values[0], values[1]


def _aspect(ds: Dataset) -> float:
    """PixelAspectRatio: a pixel's height over its width (PS3.3 C.7.6.3.1.7); 1.0 if invalid."""
    pair = _pair_mm(ds, "PixelAspectRatio")
    return pair[0] / pair[1] if pair else 1.0


def _without_bulk(ds: Dataset) -> Dataset:
    """A plain copy without pixels, overlays, curves, icons, and other long elements."""
    kept = Dataset()
    for tag in ds.keys():  # noqa: SIM118 (iterating the data set would decode every element)
        with suppress(*attributes.UNREADABLE):  # an element that breaks PS3.5 is no loss
            element = ds.get_item(tag)
            if element is not None and not _is_bulk(element):
                kept[tag] = element
    kept.file_meta = getattr(ds, "file_meta", pydicom.dataset.FileMetaDataset())
    implicit, little_endian = ds.original_encoding
    kept.set_original_encoding(implicit, little_endian, ds.original_character_set)
    return kept


def _is_of_picture(tag: BaseTag) -> bool:
    """Pixels, icons, overlays and curves."""
    if tag in _IMAGE_BULK or tag.group & 0xFF00 in (0x5000, 0x5400):
        return True
    return tag.group & 0xFF00 == 0x6000 and tag.element == 0x3000


def _is_bulk(element: DataElement | RawDataElement) -> bool:
    tag = element.tag
    if _is_of_picture(tag):
        return True
    if pydicom.datadict.keyword_for_tag(tag) in _LUT_SEQUENCES:
        return False
    return _size_bytes(element) > (_PRIVATE_BULK_BYTES if tag.is_private else _BULK_BYTES)


def _size_bytes(element: DataElement | RawDataElement) -> int:
    """Bytes of the value, items and all; short text counts as nothing."""
    value = element.value
    if isinstance(value, bytes | str):
        return len(value)
    if element.VR != "SQ" or value is None:
        return 0
    parts = (item.get_item(tag) for item in value for tag in item.keys())  # noqa: SIM118
    return sum(_size_bytes(part) for part in parts if part is not None)
