"""Tables as records with their lines, and refusals that name them."""

import csv
import posixpath
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipeline.errors import DatasetError

_MOST_ROWS_NAMED = 10
_TOO_MUCH = "more columns than the header"

Record = dict[str, str]
Numbered = tuple[int, Record]
"""A record of a table with the line it begins on; the header is line 1."""


def read(path: Path, columns: set[str], *, may_be_empty: bool = False) -> list[Numbered]:
    """The records of a table, without the white space around its cells.

    A name in the header counts in whatever case: a `Patient_ID` that is overlooked hides a leak.

    Raises:
        DatasetError: it cannot be read, lacks a column, has one twice, or has rows of more columns
            than its header, or none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey=_TOO_MUCH, restval="", strict=True)
            header = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            refuse(path, "missing column", sorted(columns - set(header)))
            refuse(path, "column given twice", _twice(header))
            records = _numbered(reader)
    except OSError as fault:
        raise DatasetError(f"{path}: cannot be read: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise DatasetError(f"{path}: is not UTF-8; save it as CSV UTF-8") from fault
    except csv.Error as fault:
        raise DatasetError(f"{path}: is no CSV: {fault}") from fault
    refuse(
        path,
        "row of more columns than the header",
        named([r for r in records if _TOO_MUCH in r[1]]),
    )
    if not records and not may_be_empty:
        raise DatasetError(f"{path}: has no rows")
    return records


def _numbered(reader: "csv.DictReader[str]") -> list[Numbered]:
    records, line = [], reader.line_num + 1
    for record in reader:
        cells = {k: v.strip() if isinstance(v, str) else v for k, v in record.items()}
        records.append((line, cells))
        line = reader.line_num + 1
    return records


def _twice(header: Sequence[str]) -> list[str]:
    return sorted({name for name in header if name and header.count(name) > 1})


def named(records: Sequence[Numbered]) -> list[str]:
    """Their lines and files."""
    return [f"line {number}: {record['file'] or 'no file'}" for number, record in records]


def listed(names: Iterable[str]) -> str:
    """The names in order."""
    return ", ".join(sorted(names))


def refuse(path: Path, what: str, names: Sequence[str]) -> None:
    """Nothing, where nothing is named.

    Raises:
        DatasetError: it says what is wrong with up to ten of these.
    """
    if names:
        shown = ", ".join(names[:_MOST_ROWS_NAMED])
        more = f" and {len(names) - _MOST_ROWS_NAMED} more" if len(names) > _MOST_ROWS_NAMED else ""
        raise DatasetError(f"{path}: {what}: {shown}{more}")


def leaking(records: Sequence[Numbered], kin: str, split: str) -> list[Numbered]:
    """The rows of kin that must stay in one split and are in several; an empty name is nobody's."""
    rows = alike([r for r in records if r[1].get(kin)], kin)
    splits: dict[str, set[str]] = {}
    for _, record in rows:
        splits.setdefault(record[kin], set()).add(record[split])
    return [r for r in rows if len(splits[r[1][kin]]) > 1]


def alike(records: Sequence[Numbered], column: str) -> list[Numbered]:
    """The rows that have this column in common with another, side by side."""
    return _met_twice(records, lambda record: record[column])


def same_files(records: Sequence[Numbered]) -> list[Numbered]:
    """The rows that name a file which another one names too, as `a/b.png` and `./a//b.png` do."""
    return _met_twice(records, lambda r: posixpath.normpath(f"{r.get('tar', '')}/{r['file']}"))


def _met_twice(records: Sequence[Numbered], key_of: Callable[[Record], str]) -> list[Numbered]:
    groups: dict[str, list[Numbered]] = {}
    for number, record in records:
        groups.setdefault(key_of(record), []).append((number, record))
    return [r for group in groups.values() if len(group) > 1 for r in group]
