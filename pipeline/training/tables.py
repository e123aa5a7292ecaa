"""Tables as records with their lines, and refusals that name them."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import DatasetError

_MOST_ROWS_NAMED = 10
_TOO_MUCH = "more columns than the header"

Record = dict[str, str]
Numbered = tuple[int, Record]
"""A record of a table with the line it begins on; the header is line 1."""


def read(path: Path, columns: set[str], *, may_be_empty: bool = False) -> list[Numbered]:
    """The records of a table.

    Raises:
        DatasetError: it cannot be read, lacks a column, or has rows of more columns than its
            header, or none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey=_TOO_MUCH, restval="", strict=True)
            refuse(path, "missing column", sorted(columns - set(reader.fieldnames or ())))
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
        records.append((line, record))
        line = reader.line_num + 1
    return records


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


def alike(records: Sequence[Numbered], *columns: str) -> list[Numbered]:
    """The rows that have these columns in common with another, side by side."""
    groups: dict[tuple[str, ...], list[Numbered]] = {}
    for number, record in records:
        key = tuple(record[column] for column in columns)
        groups.setdefault(key, []).append((number, record))
    return [r for group in groups.values() if len(group) > 1 for r in group]
