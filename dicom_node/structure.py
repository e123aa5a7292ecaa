"""Whether an encoded data set can be parsed to its end; nothing of it is decoded or changed."""

import struct
import threading
import zlib
from contextlib import nullcontext
from dataclasses import dataclass

from pydicom.uid import UID
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node import attributes
from dicom_node.errors import InputError

_SOP_CLASS_UID, _SOP_INSTANCE_UID, _PIXEL_DATA = 0x00080016, 0x00080018, 0x7FE00010
_ITEM, _ITEM_DELIMITER, _DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 7.5, A.4
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = {vr.encode() for vr in EXPLICIT_VR_LENGTH_32}
"""With a length of 32 bits behind two reserved bytes (PS3.5 7.1.2)."""
_HEADER_BYTES = 8
_UID_BYTES = 256
"""No UID is longer; it is judged elsewhere."""
_MOST_ELEMENTS, _DEEPEST = 100_000, 64
"""Elements and items together, a hundred times those of a radiograph. Whoever reads the data set
later makes objects of them: 16 MB of empty items would take a GB of memory and a minute."""
_INFLATED_BYTES = 1 << 28
"""Deflated at most so much, 11,000 x 11,000 pixels of 16 bits: it is held in the receiver's memory,
and a few kB may deflate to any size. Larger films are taken in every other transfer syntax."""

_INFLATING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a data set says it is."""

    sop_class_uid: str
    sop_instance_uid: str


def check(
    data_set: bytes, transfer_syntax_uid: str, most_elements: int = _MOST_ELEMENTS
) -> Identity:
    """The data set's elements follow each other to its very end; returns what it says it is.

    Args:
        most_elements: so many, and items, it may have.

    Raises:
        InputError: they do not; the message holds nothing of the data set.
    """
    syntax = UID(transfer_syntax_uid)
    # One at a time: each may take much memory, and there are as many threads as associations.
    turn = _INFLATING if syntax.is_deflated else nullcontext()
    try:
        with turn:
            plain = _inflated(data_set) if syntax.is_deflated else data_set
            return _Walk(plain, syntax, most_elements).to_the_end()
    except attributes.UNREADABLE as error:
        raise InputError("the data set cannot be parsed") from error


def _inflated(data_set: bytes) -> bytes:
    """The data set without its deflation (PS3.5 A.5), bounded."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(data_set, _INFLATED_BYTES)
    if not inflater.eof:
        raise InputError("the deflated data set is cut short, or too large")
    return plain


class _TooMuchError(InputError):
    """More elements than anybody should have to read."""


class _Walk:
    """One way through a data set, from element to element; no value is read but the two UIDs."""

    def __init__(self, data_set: bytes, syntax: UID, most_elements: int) -> None:
        self._data, self._size, self._at = data_set, len(data_set), 0
        self._implicit, self._left = syntax.is_implicit_VR, most_elements
        self._uids: dict[int, str] = {}
        self._named = True
        order = "<" if syntax.is_little_endian else ">"
        self._plain = struct.Struct(f"{order}HHL").unpack_from
        self._explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self._long = struct.Struct(f"{order}L").unpack_from
        self._end_of_value = struct.pack(f"{order}HH", _DELIMITER >> 16, _DELIMITER & 0xFFFF)

    def to_the_end(self) -> Identity:
        """See `check`."""
        self._elements(self._size, depth=0)
        self._demand(self._at == self._size)
        return Identity(
            sop_class_uid=self._uids.get(_SOP_CLASS_UID, ""),
            sop_instance_uid=self._uids.get(_SOP_INSTANCE_UID, ""),
        )

    def _elements(self, end: int, depth: int) -> None:
        """Element after element, to `end` or the delimiter of their item."""
        if depth > _DEEPEST:
            raise _TooMuchError("the data set is nested too deeply")
        while end - self._at >= _HEADER_BYTES:
            tag, vr, length = self._header()
            if tag == _ITEM_DELIMITER:
                self._demand(depth > 0)
                return
            if depth == 0:
                self._note(tag, length)
            self._value(tag, vr, length, depth)
        self._demand(not any(self._data[self._at : end]))  # a last piece, too short for an element
        self._at = max(self._at, end)

    def _header(self) -> tuple[int, bytes, int]:
        """Tag, VR (empty where it is implicit) and length of the element here."""
        self._spend()
        if not self._implicit:
            group, element, vr, length = self._explicit(self._data, self._at)
            if vr in _LONG_VRS:
                (length,) = self._long(self._data, self._at + _HEADER_BYTES)
                self._at += 4
            if b"AA" <= vr <= b"ZZ":
                self._at += _HEADER_BYTES
                return group << 16 | element, vr, length
        group, element, length = self._plain(self._data, self._at)
        self._at += _HEADER_BYTES
        return group << 16 | element, b"", length

    def _note(self, tag: int, length: int) -> None:
        """Remember the element if it says what the data set is; behind the pixels none does."""
        self._named = self._named and tag != _PIXEL_DATA
        if self._named and tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID):
            value = self._data[self._at : self._at + min(length, _UID_BYTES)]
            self._uids[tag] = value.decode("latin-1").strip(" \0")

    def _value(self, tag: int, vr: bytes, length: int, depth: int) -> None:
        """Step over the value, and through it where it is a sequence."""
        if length != _UNDEFINED:
            end = self._at + length
            self._demand(end <= self._size)
            if vr in (b"SQ", b"UN", b"") and self._next_tag(end) == _ITEM:
                self._count(end, depth)
            self._at = end
        elif tag == _PIXEL_DATA:
            self._fragments()
        elif vr in (b"SQ", b"UN") or self._next_tag(self._size) in (_ITEM, _DELIMITER):
            self._items(self._size, depth, delimited=True)
        else:
            found = self._data.find(self._end_of_value, self._at)
            self._demand(found >= 0)
            self._at = found + _HEADER_BYTES

    def _count(self, end: int, depth: int) -> None:
        """What is in a sequence of known length counts; how well it is made is not judged."""
        try:
            self._items(end, depth, delimited=False)
        except _TooMuchError:
            raise
        except (InputError, struct.error):
            return

    def _items(self, end: int, depth: int, *, delimited: bool) -> None:
        """Item after item, to `end` or the delimiter of the sequence (PS3.5 7.5)."""
        while delimited or self._at < end:
            tag, length = self._item()
            if tag == _DELIMITER:
                return
            self._demand(tag == _ITEM)
            self._elements(self._size if length == _UNDEFINED else self._at + length, depth + 1)

    def _fragments(self) -> None:
        """Encapsulated pixels (PS3.5 A.4)."""
        while (item := self._item())[0] == _ITEM:
            self._at += item[1]
        self._demand(item == (_DELIMITER, 0))

    def _item(self) -> tuple[int, int]:
        """Tag and length of an item or a delimiter, which have no VR."""
        self._spend()
        self._demand(self._at + _HEADER_BYTES <= self._size)
        group, element, length = self._plain(self._data, self._at)
        self._at += _HEADER_BYTES
        return group << 16 | element, length

    def _next_tag(self, end: int) -> int:
        if end - self._at < _HEADER_BYTES:
            return 0
        group, element, _ = self._plain(self._data, self._at)
        return int(group << 16 | element)

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooMuchError("the data set has too many elements")

    def _demand(self, holds: bool) -> None:
        if not holds:
            raise InputError("the data set is cut short, or goes on behind its end")
