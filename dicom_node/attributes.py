"""Attribute values read from data sets that may break every rule: a bad value counts as absent."""

import errno
import math
import struct
import warnings
import zlib

from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

UNREADABLE = (
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises, on reading or on first access, for bytes that break PS3.5.

It has no error base of its own. An OSError among them is of the bytes in memory (a sequence that
ends too soon): code that opens a file lets that one pass on.
"""


def keep_warnings_quiet() -> None:
    """This process says nothing of pydicom's: they quote values, which may be a patient's."""
    warnings.filterwarnings("ignore", module="pydicom")


def is_the_machines(fault: BaseException) -> bool:
    """Whether memory, a file handle or the disk was wanting, whatever the object holds.

    pydicom's own OSErrors have no number; a seek to where a damaged length points has EINVAL.
    """
    if isinstance(fault, OSError):
        return fault.errno not in (None, errno.EINVAL, errno.EOVERFLOW)
    return isinstance(fault, MemoryError)


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """All values of `keyword` as finite numbers; empty where absent or any is not a number."""
    try:
        found = tuple(float(str(value)) for value in _values(ds, keyword))
    except UNREADABLE:
        return ()
    return found if all(math.isfinite(value) for value in found) else ()


def number(ds: Dataset, keyword: str) -> float | None:
    """The first value of `keyword` as a finite number, or None."""
    return next(iter(numbers(ds, keyword)), None)


def integer(ds: Dataset, keyword: str) -> int | None:
    """The first value of `keyword` where it is a whole number, or None."""
    value = number(ds, keyword)
    return int(value) if value is not None and value == int(value) else None


def codes(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of a code string, without padding and in capitals (PS3.5 6.2, CS)."""
    try:
        return tuple(str(value).strip().upper() for value in _values(ds, keyword))
    except UNREADABLE:
        return ()


def code(ds: Dataset, keyword: str) -> str:
    """The first value of a code string, or ""."""
    return next(iter(codes(ds, keyword)), "")


def binary(ds: Dataset, keyword: str) -> bytes | None:
    """The value of `keyword` where it was left as bytes (PS3.5 6.2, OB, OW and UN)."""
    try:
        value = ds.get(keyword)
    except UNREADABLE:
        return None
    return value if isinstance(value, bytes) else None


def items(ds: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; none where the value is no sequence."""
    try:
        return tuple(item for item in ds.get(keyword) or () if isinstance(item, Dataset))
    except UNREADABLE:
        return ()


def first_item(ds: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence, or None."""
    return next(iter(items(ds, keyword)), None)


def text(ds: Dataset, keyword: str) -> str:
    """The value of `keyword` as pydicom writes it, or ""."""
    try:
        value = ds.get(keyword)
        return "" if value is None else str(value)
    except UNREADABLE:
        return ""


def _values(ds: Dataset, keyword: str) -> tuple[object, ...]:
    value = ds.get(keyword)
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str | bytes | int | float) else tuple(value)
