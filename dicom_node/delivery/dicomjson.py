"""Answers in the DICOM JSON model (PS3.18 annex F), before anybody reads them as data sets.

That takes a millisecond each, and a server that heeds no filter tells of ten thousand.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pydicom import Dataset

Json = dict[str, Any]
Choice = Callable[[list[Json]], Iterator[Json]]
"""Which data sets of an answer are worth reading."""

SOP_INSTANCE_UID, STUDY_INSTANCE_UID = "00080018", "0020000D"


def data_sets(said: object) -> list[Json]:
    """The data sets of an answer about one; the first can be read.

    Raises:
        Exception: it is none, or whatever bytes do to their readers.
    """
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise TypeError("no array of objects")
    for one in said[:1]:
        Dataset.from_json(one)
    return said


def none(_: list[Json]) -> Iterator[Json]:
    """That there is an answer is enough."""
    return iter(())


def with_uid(tag: str, uid: str) -> Choice:
    """Those that have this UID alone under that tag, in whichever letters."""

    def chosen(said: list[Json]) -> Iterator[Json]:
        for ds in said:
            element = ds.get(tag, ds.get(tag.lower()))
            if isinstance(element, dict) and _uids(element.get("Value")) == [uid]:
                yield ds

    return chosen


def unpadded(uid: object) -> str:
    """The UID without its padding (PS3.5 9.1), which servers that copy the bytes leave on it."""
    return str(uid).strip(" \0\n\r\t")


def _uids(values: object) -> list[str]:
    return [unpadded(one) for one in values] if isinstance(values, list) else []
