"""A structured report's content as indented text, for whoever has no SR viewer."""

from collections.abc import Iterator

from pydicom import Dataset

_PLAIN = {"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName", "DATETIME": "DateTime"}


def as_text(report: Dataset) -> str:
    """One line a content item: its name, its value and unit (PS3.3 C.17.3)."""
    return "\n".join(_lines(report, 0))


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
