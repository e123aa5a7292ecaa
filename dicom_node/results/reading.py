"""A structured report's content as indented text, for whoever has no SR viewer."""

import html
from collections.abc import Iterator

from pydicom import Dataset

_PLAIN = {"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName", "DATETIME": "DateTime"}


def as_text(report: Dataset) -> str:
    """One line a content item: its name, its value and unit (PS3.3 C.17.3)."""
    return "\n".join(_lines(report, 0))


def as_html(report: Dataset) -> str:
    """The same as one page without scripts or styles of others."""
    title = html.escape(_meaning(report, "ConceptNameCodeSequence"))
    body = "".join(_items(report))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        f"<body><h1>{title}</h1><ul>{body}</ul></body></html>\n"
    )


def _items(parent: Dataset) -> Iterator[str]:
    for item in parent.get("ContentSequence") or ():
        name = html.escape(_meaning(item, "ConceptNameCodeSequence"))
        value = html.escape(_value(item)).replace("\n", "<br>")
        inner = "".join(_items(item))
        below = f"<ul>{inner}</ul>" if inner else ""
        yield f"<li><b>{name}</b> {value}{below}</li>"


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    name = _meaning(item, "ConceptNameCodeSequence")
    value = _value(item)
    yield f"{'  ' * depth}{name}{': ' if name and value else ''}{value}"
    for child in item.get("ContentSequence") or ():
        yield from _lines(child, depth + 1)


def _value(item: Dataset) -> str:
    kind = str(item.get("ValueType", ""))
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        return ", ".join(map(_measured, item.get("MeasuredValueSequence") or ()))
    if kind == "IMAGE":
        return f"image {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID}"
    if kind == "SCOORD":
        return f"{item.GraphicType} of {len(item.GraphicData) // 2} points"
    return str(item.get(_PLAIN[kind], "")) if kind in _PLAIN else ""


def _measured(value: Dataset) -> str:
    return f"{value.NumericValue} {_meaning(value, 'MeasurementUnitsCodeSequence')}"


def _meaning(item: Dataset, keyword: str) -> str:
    codes = item.get(keyword) or ()
    return str(codes[0].CodeMeaning) if codes else ""
