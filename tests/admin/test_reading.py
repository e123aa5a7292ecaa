"""A structured report as text."""

from pathlib import Path

from pydicom import Dataset

from dicom_node.results import reading, registry
from tests.results import sources


def code(meaning: str) -> list[Dataset]:
    ds = Dataset()
    ds.CodeMeaning = meaning
    return [ds]


def item(kind: str, name: str = "", **values: object) -> Dataset:
    ds = Dataset()
    ds.ValueType = kind
    if name:
        ds.ConceptNameCodeSequence = code(name)
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def number(value: str, unit: str) -> list[Dataset]:
    ds = Dataset()
    ds.NumericValue, ds.MeasurementUnitsCodeSequence = value, code(unit)
    return [ds]


def test_each_content_item_is_a_line_indented_by_its_depth() -> None:
    referenced = Dataset()
    referenced.ReferencedSOPInstanceUID = "1.2.3"
    group = item(
        "CONTAINER",
        "Group",
        ContentSequence=[
            item("NUM", "Area", MeasuredValueSequence=number("12.5", "mm2")),
            item("CODE", "Site", ConceptCodeSequence=code("Chest")),
            item("IMAGE", "Source", ReferencedSOPSequence=[referenced]),
            item("SCOORD", "Outline", GraphicType="POLYLINE", GraphicData=[0, 0, 4, 0, 0, 0]),
        ],
    )
    report = item(
        "CONTAINER", "Report", ContentSequence=[item("TEXT", "Comment", TextValue="none"), group]
    )
    assert reading.as_text(report).splitlines() == [
        "Report",
        "  Comment: none",
        "  Group",
        "    Area: 12.5 mm2",
        "    Site: Chest",
        "    Source: image 1.2.3",
        "    Outline: POLYLINE of 3 points",
    ]


def test_names_times_and_uids_are_read() -> None:
    report = item(
        "CONTAINER",
        ContentSequence=[
            item("UIDREF", "Device", UID="2.25.7"),
            item("PNAME", "Observer", PersonName="A^B"),
            item("DATETIME", "When", DateTime="20250304101112"),
        ],
    )
    assert reading.as_text(report).splitlines() == [
        "",
        "  Device: 2.25.7",
        "  Observer: A^B",
        "  When: 20250304101112",
    ]


def test_an_item_that_lacks_its_value_is_its_name() -> None:
    for kind in ("NUM", "CODE", "TEXT", "COMPOSITE", "UIDREF"):
        assert reading.as_text(item(kind, "Name")) == "Name"


def test_the_nodes_own_report_is_told_with_score_status_and_region(tmp_path: Path) -> None:
    context = sources.context_of(sources.source(), tmp_path)
    text = reading.as_text(registry.build("structured_report", context))
    lines = text.splitlines()
    assert lines[0] == "Imaging Measurement Report"
    assert len([line for line in lines if "POLYLINE of 5 points" in line]) == 1
    assert "      Attribution score of the film: 0.75 no units" in lines
    assert len([line for line in lines if line.strip().startswith("Area: 3750")]) == 1
