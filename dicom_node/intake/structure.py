"""Whether an encoded data set can be parsed to its end; nothing of it is decoded or changed."""

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from io import SEEK_CUR, BytesIO

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicom_node import attributes
from dicom_node.errors import InputError

_PIXEL_DATA = 0x7FE00010
_ITEM, _DELIMITER = 0xFFFEE000, 0xFFFEE0DD  # PS3.5 A.4
_UNDEFINED = 0xFFFFFFFF
_SKIPPED_BYTES = 4096
"""Values longer than this are stepped over, not read."""
_INFLATED_BYTES = 1 << 28
"""Deflated at most so much, 11,000 x 11,000 pixels of 16 bits: it is held in the receiver's memory,
and a few kB may deflate to any size. Larger films are taken in every other transfer syntax."""

_INFLATING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a data set says it is."""

    sop_class_uid: str
    sop_instance_uid: str


def check(data_set: bytes, transfer_syntax_uid: str) -> Identity:
    """The data set's elements follow each other to its very end; returns what it says it is.

    Raises:
        InputError: they do not; the message holds nothing of the data set.
    """
    syntax = UID(transfer_syntax_uid)
    # One at a time: each may take much memory, and there are as many threads as associations.
    turn = _INFLATING if syntax.is_deflated else nullcontext()
    try:
        with turn:
            plain = _inflated(data_set) if syntax.is_deflated else data_set
            walk = _Walk(plain, implicit=syntax.is_implicit_VR, little=syntax.is_little_endian)
            return walk.to_the_end()
    except attributes.UNREADABLE as error:
        raise InputError("the data set cannot be parsed") from error


def _inflated(data_set: bytes) -> bytes:
    """The data set without its deflation (PS3.5 A.5), bounded."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(data_set, _INFLATED_BYTES)
    if not inflater.eof:
        raise InputError("the deflated data set is cut short, or too large")
    return plain


class _Walk:
    """One way through a data set, from element to element."""

    def __init__(self, data_set: bytes, *, implicit: bool, little: bool) -> None:
        self._stream, self._size = BytesIO(data_set), len(data_set)
        self._implicit, self._little = implicit, little
        order = "<" if little else ">"
        self._tag, self._length = struct.Struct(f"{order}HH"), struct.Struct(f"{order}L")

    def to_the_end(self) -> Identity:
        """See `check`."""
        header = Dataset({element.tag: element for element in self._elements()})
        if self._stream.tell() < self._size:  # the pixels follow
            self._step_over_pixels()
            for _ in self._elements():
                pass  # what may stand behind the pixels: padding, signatures
        self._demand(self._stream.tell() == self._size)
        return Identity(
            sop_class_uid=_uid(header, "SOPClassUID"),
            sop_instance_uid=_uid(header, "SOPInstanceUID"),
        )

    def _elements(self) -> Iterator[DataElement | RawDataElement]:
        """The elements up to the pixels or the end, each with its value within the data set."""
        end = self._stream.tell()
        for element in data_element_generator(
            self._stream, self._implicit, self._little, _is_pixels, defer_size=_SKIPPED_BYTES
        ):
            end = self._stream.tell()
            if isinstance(element, RawDataElement) and element.length != _UNDEFINED:
                self._demand(element.value_tell + element.length <= self._size)
            yield element
        if self._stream.tell() == self._size:  # it reads a last piece too short for an element
            self._demand(not any(self._stream.getbuffer()[end:]))

    def _step_over_pixels(self) -> None:
        """Native or encapsulated (PS3.5 A.4), the value ends within the data set."""
        self._demand(self._next_tag() == _PIXEL_DATA)
        if not self._implicit and self._stream.read(2) in (b"OB", b"OW", b"UN", b"OF", b"OD"):
            self._stream.read(2)  # reserved, and the length has 32 bits (PS3.5 7.1.2)
        length = self._next_length()
        if length != _UNDEFINED:
            self._step(length)
            return
        while (tag := self._next_tag()) == _ITEM:
            self._step(self._next_length())
        self._demand(tag == _DELIMITER and self._next_length() == 0)

    def _next_tag(self) -> int:
        group, element = self._tag.unpack(self._stream.read(4))
        return int(group) << 16 | int(element)

    def _next_length(self) -> int:
        return int(self._length.unpack(self._stream.read(4))[0])

    def _step(self, length: int) -> None:
        self._demand(self._stream.seek(length, SEEK_CUR) <= self._size)

    def _demand(self, holds: bool) -> None:
        if not holds:
            raise InputError("the data set is cut short, or goes on behind its end")


def _is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return int(tag) == _PIXEL_DATA


def _uid(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip(" \0")
