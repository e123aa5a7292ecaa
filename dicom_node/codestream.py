"""What a compressed frame says of itself, before a codec is let near it.

Codecs fill what is missing with grey and say nothing, and pydicom trusts the data set over the
frame; so dimensions, components, precision and the end marker are read here, from the markers.
"""

import struct
from dataclasses import dataclass

from pydicom import uid

from dicom_node.errors import InputError

_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"
"""SOC followed at once by SIZ, as ISO/IEC 15444-1 A.4.1 and A.5.1 demand."""
_END = b"\xff\xd9"
"""EOI of ISO/IEC 10918-1 B.1.1.3 and of 14495-1; EOC of 15444-1 A.4.4 has the same code."""

_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xF7})
"""SOF0..SOF3 of ISO/IEC 10918-1 table B.1, SOF55 of 14495-1 C.1.1."""
_SCAN_MARKER = 0xDA


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """Size and form of one compressed frame; `precision` in bits a sample."""

    rows: int
    columns: int
    components: int
    precision: int


def inspect(frame: bytes, transfer_syntax_uid: str) -> Codestream:
    """What the frame's own markers state.

    Raises:
        InputError: the markers are not those of the transfer syntax, or the frame is cut short.
    """
    try:
        if transfer_syntax_uid in uid.JPEG2000TransferSyntaxes + _HTJ2K:
            found = _jpeg_2000(frame)
        else:
            found = _jpeg(frame)
    except (struct.error, IndexError) as error:
        raise InputError("The compressed pixel data ends within its own header.") from error
    # Encoders pad to even length with zeros, or fill with 0xFF (ISO/IEC 10918-1 B.1.1.2).
    if not frame.rstrip(b"\x00\xff").endswith(_END):
        raise InputError("The compressed pixel data is truncated: its end marker is missing.")
    return found


_HTJ2K = [uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL]


def _jpeg(frame: bytes) -> Codestream:
    """The frame header of a JPEG or JPEG-LS stream (ISO/IEC 10918-1 B.2.2)."""
    if not frame.startswith(_JPEG_START):
        raise InputError("The compressed pixel data is not a JPEG stream.")
    at = len(_JPEG_START)
    while True:
        fill, marker, length = struct.unpack_from(">BBH", frame, at)
        if fill != 0xFF or marker == _SCAN_MARKER:
            raise InputError("The compressed pixel data has no JPEG frame header.")
        if marker == 0xFF:  # a fill byte before the marker
            at += 1
        elif marker in _FRAME_MARKERS:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            return Codestream(
                rows=rows, columns=columns, components=components, precision=precision
            )
        else:
            at += 2 + length


def _jpeg_2000(frame: bytes) -> Codestream:
    """The SIZ segment of a JPEG 2000 or HTJ2K stream (ISO/IEC 15444-1 A.5.1)."""
    # A JP2 wrapper before the stream does not conform (PS3.5 A.4.4), but codecs read it.
    at = frame.find(_J2K_START)
    if at < 0:
        raise InputError("The compressed pixel data is not a JPEG 2000 stream.")
    x_end, y_end, x_start, y_start = struct.unpack_from(">4I", frame, at + 8)
    components, depth = struct.unpack_from(">HB", frame, at + 40)
    return Codestream(
        rows=y_end - y_start,
        columns=x_end - x_start,
        components=components,
        precision=(depth & 0x7F) + 1,  # Ssiz: the top bit is the sign (table A.11)
    )
