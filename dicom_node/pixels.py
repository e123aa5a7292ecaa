"""Stored pixel values of a data set: checked against what it states, then decoded.

Native pixels are parted here; compressed frames go to the codec that is surest for their kind:
GDCM for the JPEG family (it alone has 12-bit Extended), CharLS, OpenJPEG and pylibjpeg-rle.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import gdcm
import jpeg_ls  # type: ignore[import-untyped]  # ships neither stubs nor a marker
import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode as decode_jpeg_2000
from pydicom import Dataset, encaps, uid
from rle.rle import decode_segment  # type: ignore[import-not-found]  # compiled, without a stub

from dicom_node import attributes, codestream
from dicom_node.codestream import Codestream
from dicom_node.errors import CodecError, InputError

Stored = npt.NDArray[np.uint16] | npt.NDArray[np.int16]
"""[rows, cols] sample values, signed where PixelRepresentation says so."""
Cells = npt.NDArray[np.uint16]
"""[rows, cols] sample cells of 8 or 16 bits as they were in the file, unused bits included."""

_GREY = ("MONOCHROME1", "MONOCHROME2")
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
MIN_SIDE_PX = 128
MAX_SIDE_PX = 20_000
_LOSSY = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """The Image Pixel Module's description of one greyscale frame (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def frame_bytes(self) -> int:
        """Length of the frame without compression."""
        return self.rows * self.columns * self.bits_allocated // 8


def pixel_format(ds: Dataset) -> PixelFormat:
    """The format of a single greyscale frame that this node can analyse.

    Raises:
        InputError: no pixels, colour, several frames, or sizes or bits out of bounds.
    """
    if not ds.get("PixelData"):
        raise InputError("There is no pixel data.")
    _demand_one_grey_frame(ds)
    found = PixelFormat(
        rows=_stated(ds, "Rows"),
        columns=_stated(ds, "Columns"),
        bits_allocated=_stated(ds, "BitsAllocated"),
        bits_stored=_stated(ds, "BitsStored"),
        high_bit=_stated(ds, "HighBit"),
        signed=_stated(ds, "PixelRepresentation") == 1,
    )
    _demand_sides(found)
    _demand_bits(found)
    return found


def stored_values(ds: Dataset, transfer_syntax_uid: str) -> Stored:
    """The frame's sample values, with unused bits taken off and the sign applied.

    Raises:
        InputError: the data set or its pixel data cannot be used, and why.
        CodecError: its codec gave up, which may also be for want of memory.
    """
    fmt = pixel_format(ds)
    syntax = uid.UID(transfer_syntax_uid)
    if syntax in _NATIVE:
        cells = _native(ds, fmt, syntax)
    elif syntax == uid.RLELossless:
        cells = _run_length(_frame(ds), fmt)
    elif syntax in _CODECS:
        return _coded(ds, fmt, syntax)
    else:
        raise InputError(f"The transfer syntax {syntax.name} is not supported.")
    low_bit = fmt.high_bit + 1 - fmt.bits_stored
    return _samples(ds, cells >> np.uint16(low_bit), fmt, fmt.bits_allocated - low_bit)


def _stated(ds: Dataset, keyword: str) -> int:
    value = attributes.integer(ds, keyword)
    if value is None:
        raise InputError(f"{keyword} is missing or is not a number.")
    return value


def _demand_one_grey_frame(ds: Dataset) -> None:
    interpretation = attributes.code(ds, "PhotometricInterpretation")
    if _stated(ds, "SamplesPerPixel") != 1 or interpretation not in _GREY:
        raise InputError("The image is in colour or states no greyscale interpretation.")
    if (attributes.integer(ds, "NumberOfFrames") or 1) != 1:
        raise InputError("The image has several frames.")


def _demand_sides(fmt: PixelFormat) -> None:
    sides = f"The image is {fmt.rows} x {fmt.columns} pixels;"
    if min(fmt.rows, fmt.columns) < MIN_SIDE_PX:
        raise InputError(f"{sides} the least is {MIN_SIDE_PX} a side.")
    if max(fmt.rows, fmt.columns) > MAX_SIDE_PX:
        raise InputError(f"{sides} the most is {MAX_SIDE_PX} a side.")


def _demand_bits(fmt: PixelFormat) -> None:
    if fmt.bits_allocated not in (8, 16):
        raise InputError(f"BitsAllocated is {fmt.bits_allocated}; 8 and 16 can be read.")
    if not 8 <= fmt.bits_stored <= fmt.high_bit + 1 <= fmt.bits_allocated:
        raise InputError(
            f"BitsStored {fmt.bits_stored} and HighBit {fmt.high_bit} do not fit "
            f"in {fmt.bits_allocated} bits, or are fewer than 8 bits."
        )


def _native(ds: Dataset, fmt: PixelFormat, syntax: uid.UID) -> Cells:
    """Cells of uncompressed pixel data, in this machine's byte order (PS3.5 8.1.1, 8.2)."""
    element = ds["PixelData"]
    if element.is_undefined_length:
        raise InputError("Compressed pixel data is stated to be uncompressed.")
    _demand_length(len(element.value), fmt)
    return _shaped(little_endian(ds, syntax), fmt, f"<u{fmt.bits_allocated // 8}")


def is_native(transfer_syntax_uid: str) -> bool:
    """Whether pixel data of that transfer syntax is not compressed (PS3.5 A.4)."""
    return transfer_syntax_uid in _NATIVE


def little_endian(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """The bytes of uncompressed pixel data as little endian syntaxes have them; b"" for none.

    Words have their bytes swapped (PS3.5 7.3, 8.1.1): a cell of 16 bits, or two of 8 that share an
    OW word.
    """
    data = attributes.binary(ds, "PixelData") or b""
    in_words = attributes.integer(ds, "BitsAllocated") == 16
    if data and not in_words:
        in_words = ds["PixelData"].VR == "OW" and len(data) % 2 == 0
    if uid.UID(transfer_syntax_uid).is_little_endian or not in_words:
        return data
    whole = len(data) & ~1
    return np.frombuffer(data[:whole], np.uint16).byteswap().tobytes() + data[whole:]


def _shaped(pixels: bytes, frame: PixelFormat | Codestream, cell: str) -> Cells:
    """[rows, cols] of a decoded frame's first bytes, read as cells of this numpy type."""
    cells = np.frombuffer(pixels, np.dtype(cell), count=frame.rows * frame.columns)
    return cells.reshape(frame.rows, frame.columns).astype(np.uint16)


def _demand_length(found: int, fmt: PixelFormat) -> None:
    """Refuses what is short, and what is longer by a row or column: a side is then misstated."""
    tolerated = min(fmt.rows, fmt.columns) * fmt.bits_allocated // 8
    if found < fmt.frame_bytes:
        raise InputError(f"The pixel data is truncated: {found} of {fmt.frame_bytes} bytes.")
    if found >= fmt.frame_bytes + tolerated:
        raise InputError(
            f"The pixel data has {found} bytes where rows, columns and bits make {fmt.frame_bytes}."
        )


def _frame(ds: Dataset) -> bytes:
    """The single frame of encapsulated pixel data, all its fragments joined (PS3.5 A.4)."""
    element = ds["PixelData"]
    if not element.is_undefined_length:
        raise InputError("Uncompressed pixel data is stated to be compressed.")
    try:
        return next(encaps.generate_frames(element.value, number_of_frames=1))
    except (ValueError, EOFError, StopIteration, struct.error) as error:
        raise InputError("The fragments of the compressed pixel data are broken.") from error


def _run_length(frame: bytes, fmt: PixelFormat) -> Cells:
    """Cells of an RLE frame: one segment a byte of the cell, the highest first (PS3.5 G.2).

    Segment by segment, since the codec's own frame function panics on one that is too long.
    """
    planes = [_segment(segment, fmt) for segment in _segments(frame, fmt.bits_allocated // 8)]
    cells = np.zeros((fmt.rows, fmt.columns), np.uint16)
    for plane in planes:
        cells = (cells << np.uint16(8)) | plane
    return cells


def _segments(frame: bytes, count: int) -> list[bytes]:
    """The header's segments: their number, then their offsets, in 64 bytes (PS3.5 G.5)."""
    if len(frame) < 64 or struct.unpack_from("<I", frame)[0] != count:
        raise InputError("The RLE pixel data has not one segment for each byte of a pixel.")
    starts = struct.unpack_from(f"<{count}I", frame, 4)
    return [frame[a:b] for a, b in zip(starts, (*starts[1:], len(frame)), strict=True)]


def _segment(segment: bytes, fmt: PixelFormat) -> Cells:
    if not segment:  # the codec would panic
        raise InputError("The RLE pixel data has an empty segment.")
    try:
        decoded = decode_segment(segment)
    except ValueError as error:
        raise CodecError("The RLE pixel data cannot be decoded.") from error
    # A segment of odd length has a byte of padding (PS3.5 G.3.1), which may decode to one more.
    if not 0 <= len(decoded) - fmt.rows * fmt.columns <= 1:
        raise InputError("The RLE pixel data is truncated or does not fit its size.")
    return _shaped(decoded, fmt, "u1")


def _coded(ds: Dataset, fmt: PixelFormat, syntax: uid.UID) -> Stored:
    """Samples of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K frame that agrees with its data set."""
    frame = _frame(ds)
    stream = codestream.inspect(frame, syntax)
    _demand_agreement(fmt, stream)
    cells = _CODECS[syntax](frame, stream, syntax)
    if syntax in _LOSSY and not fmt.signed:  # loss may overshoot the range that was stored
        np.minimum(cells, _ones(fmt.bits_stored), out=cells)
    return _samples(ds, cells, fmt, stream.precision)


def _demand_agreement(fmt: PixelFormat, stream: Codestream) -> None:
    """Refuses a frame that says other than its data set.

    A precision above BitsStored is in order: JPEG Extended knows only 8 and 12 bits (PS3.5
    8.2.1), and encoders of lossless JPEG write 16 for 10 or 12.
    """
    if (stream.rows, stream.columns) != (fmt.rows, fmt.columns):
        raise InputError(
            f"The compressed frame is {stream.rows} x {stream.columns} pixels, the data set "
            f"says {fmt.rows} x {fmt.columns}."
        )
    if stream.components != 1:
        raise InputError("The compressed frame is in colour.")
    if not fmt.bits_stored <= stream.precision <= fmt.bits_allocated:
        raise InputError(
            f"The compressed frame has {stream.precision} bits, the data set says "
            f"{fmt.bits_stored} stored in {fmt.bits_allocated}."
        )


def _jpeg(frame: bytes, stream: Codestream, syntax: uid.UID) -> Cells:
    """JPEG by GDCM itself: pydicom's plug-in refuses 12-bit Extended, which GDCM reads."""
    # GDCM hands its bytes over as text, or None where it gives up.
    text = _gdcm_image(frame, stream, syntax).GetBuffer()
    if text is None:
        raise CodecError("The JPEG pixel data cannot be decoded.")
    return _decoded(text.encode("utf-8", "surrogateescape"), stream)


def _gdcm_image(frame: bytes, stream: Codestream, syntax: uid.UID) -> gdcm.Image:
    """The frame as GDCM wants it, described by its own markers."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    bits, container = stream.precision, 8 if stream.precision <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(1, container, bits, bits - 1, 0))
    return image


def _jpeg_ls(frame: bytes, stream: Codestream, _syntax: uid.UID) -> Cells:
    try:
        pixels, _ = jpeg_ls.decode_pixel_data(frame)
    except (RuntimeError, ValueError) as error:
        raise CodecError("The JPEG-LS pixel data cannot be decoded.") from error
    return _decoded(bytes(pixels), stream)


def _jpeg_2000(frame: bytes, stream: Codestream, _syntax: uid.UID) -> Cells:
    """JPEG 2000 and HTJ2K; a codestream that is signed itself gives its two's complement."""
    try:
        pixels = decode_jpeg_2000(frame, reshape=False)
    except (RuntimeError, ValueError) as error:
        raise CodecError("The JPEG 2000 pixel data cannot be decoded.") from error
    return _decoded(pixels.tobytes(), stream) & _ones(stream.precision)


def _decoded(pixels: bytes, stream: Codestream) -> Cells:
    """[rows, cols] of decoded little-endian cells, 8 bits up to that precision, else 16."""
    cell_bytes = 1 if stream.precision <= 8 else 2
    if len(pixels) != stream.rows * stream.columns * cell_bytes:
        raise CodecError("The compressed pixel data decodes to another size than it states.")
    return _shaped(pixels, stream, f"<u{cell_bytes}")


def _samples(ds: Dataset, cells: Cells, fmt: PixelFormat, width: int) -> Stored:
    """Values of the low BitsStored bits of cells that are `width` bits wide (PS3.5 8.1.1).

    Bits above are zero or the sign again. Anything else means that BitsStored lies, unless an
    old overlay is kept there (retired since PS3.5-2004).
    """
    if not _overlay_in_unused_bits(ds) and not _spare_bits_are_blank(cells, fmt, width):
        raise InputError(f"Pixel values exceed the {fmt.bits_stored} bits stated as stored.")
    if not fmt.signed:
        return cells & _ones(fmt.bits_stored)
    unused = 16 - fmt.bits_stored
    return (cells << unused).view(np.int16) >> unused


def _spare_bits_are_blank(cells: Cells, fmt: PixelFormat, width: int) -> bool:
    above = cells >> fmt.bits_stored
    if not above.any():
        return True
    sign = above & 0 if not fmt.signed else (cells >> (fmt.bits_stored - 1)) & 1
    return np.array_equal(above, sign * _ones(width - fmt.bits_stored))


def _ones(bits: int) -> np.uint16:
    return np.uint16((1 << bits) - 1)


def _overlay_in_unused_bits(ds: Dataset) -> bool:
    """Whether an overlay states a bit position inside the pixel cells (PS3.3 C.9.2)."""
    return any((group, 0x0102) in ds and ds[group, 0x0102].value for group in _OVERLAY_GROUPS)


_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
_CODECS: dict[str, Callable[[bytes, Codestream, uid.UID], Cells]] = {
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: _jpeg,
    uid.JPEGLossless: _jpeg,
    uid.JPEGLosslessSV1: _jpeg,
    uid.JPEGLSLossless: _jpeg_ls,
    uid.JPEGLSNearLossless: _jpeg_ls,
    uid.JPEG2000Lossless: _jpeg_2000,
    uid.JPEG2000: _jpeg_2000,
    uid.HTJ2KLossless: _jpeg_2000,
    uid.HTJ2KLosslessRPCL: _jpeg_2000,
    uid.HTJ2K: _jpeg_2000,
}
