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
_DELIMITERS_GROUP = 0xFFFE
_ITEM, _ITEM_DELIMITER, _DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 7.5
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)
_UID_BYTES = 128
"""More than any UID has: what is longer is none."""
_MOST_STEPS = 1_000_000
"""Elements and items that are walked: some seconds. A film has hundreds, an enhanced multi-frame
object of thousands of frames hundreds of thousands."""
_DEEPEST = 128
"""Sequences and items within each other; whoever reads the film later does it by recursion."""
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
    """One way through a data set, from element to element.

    Nothing is kept of it but the two UIDs. A value of defined length is stepped over whole, also
    where it is a sequence; of one without, the items are walked (PS3.5 7.5, A.4).
    """

    def __init__(self, data_set: bytes, *, implicit: bool, little: bool) -> None:
        self._data, self._size, self._implicit = data_set, len(data_set), implicit
        order = "<" if little else ">"
        self._head = struct.Struct(f"{order}HHL")
        self._short, self._long = struct.Struct(f"{order}H"), struct.Struct(f"{order}L")
        self._at = self._steps = 0
        self._depth = 0  # odd: among the items of a sequence; even: among elements
        self._uids = {_SOP_CLASS_UID: "", _SOP_INSTANCE_UID: ""}
        self._pixels_passed = False

    def to_the_end(self) -> Identity:
        """See `check`."""
        while self._depth or not self._is_over():
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise InputError("the data set has too many elements")
            if self._depth % 2:
                self._take_item()
            else:
                self._take_element()
        return Identity(
            sop_class_uid=self._uids[_SOP_CLASS_UID], sop_instance_uid=self._uids[_SOP_INSTANCE_UID]
        )

    def _is_over(self) -> bool:
        """Whether no element follows; a last piece too short for one may only be padding."""
        if self._size - self._at >= self._head.size:
            return False
        self._demand(not any(self._data[self._at :]))
        return True

    def _take_item(self) -> None:
        """The next item of the innermost sequence, or its end."""
        group, element, length = self._head.unpack_from(self._data, self._at)
        self._at += self._head.size
        tag = group << 16 | element
        if tag == _DELIMITER:
            self._depth -= 1
            return
        self._demand(tag == _ITEM)
        self._enter_or_step_over(length)

    def _take_element(self) -> None:
        """The next element of the data set or innermost item, or that item's end."""
        tag, length = self._next()
        if tag == _ITEM_DELIMITER and self._depth:
            self._depth -= 1
            return
        self._demand(tag >> 16 != _DELIMITERS_GROUP)
        if not self._depth:
            self._note(tag, length)
        self._enter_or_step_over(length)

    def _next(self) -> tuple[int, int]:
        """Tag and length of an element; where its VR should be may be none (PS3.5 6.2.2, UN)."""
        group, element, length = self._head.unpack_from(self._data, self._at)
        vr = self._data[self._at + 4 : self._at + 6]
        self._at += self._head.size
        explicit = not self._implicit and group != _DELIMITERS_GROUP and b"AA" <= vr <= b"ZZ"
        if explicit and vr in _LONG_VRS:  # two bytes are reserved, then come four (PS3.5 7.1.2)
            (length,) = self._long.unpack_from(self._data, self._at)
            self._at += self._long.size
        elif explicit:
            (length,) = self._short.unpack_from(self._data, self._at - self._short.size)
        return group << 16 | element, length

    def _note(self, tag: int, length: int) -> None:
        self._pixels_passed = self._pixels_passed or tag == _PIXEL_DATA
        if tag in self._uids and not self._pixels_passed and length <= _UID_BYTES:
            value = self._data[self._at : self._at + length]
            self._uids[tag] = value.decode("ascii", "replace").strip(" \0")

    def _enter_or_step_over(self, length: int) -> None:
        if length == _UNDEFINED:
            self._depth += 1
            self._demand(self._depth <= _DEEPEST)
            return
        self._at += length
        self._demand(self._at <= self._size)

    def _demand(self, holds: bool) -> None:
        if not holds:
            raise InputError("the data set is cut short, or goes on behind its end")
