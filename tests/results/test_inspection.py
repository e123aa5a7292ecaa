"""What is taken over from dciodvfy: neither its mistakes, nor a patient's data."""

from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicom_node.results import inspection, registry
from tests.results import sources

_SUMMARY = "Error - Dicom dataset contains invalid data values for Value Representations"


def value_line(vr: str, value: str, length: int) -> str:
    return (
        f"Error - Value invalid for this VR - (0x0010,0x0010) {vr} Name  {vr} [1] = <{value}>"
        f" - Length invalid for this VR = {length}, expected <= 64"
    )


@pytest.mark.parametrize("vr", ["SH", "LO", "PN", "ST", "LT", "UC", "UT"])
def test_a_length_counted_in_bytes_is_no_fault_of_text(vr: str) -> None:
    assert inspection.errors(f"{value_line(vr, 'Анна', 86)}\n{_SUMMARY}\n") == frozenset()


def test_a_length_of_what_is_always_ascii_stays_a_fault() -> None:
    assert len(inspection.errors(f"{value_line('PN', 'A', 86)}\n{value_line('CS', 'A', 20)}")) == 1


def test_the_summary_stays_where_another_value_is_invalid() -> None:
    other = "Error - Value invalid for this VR - (0x0008,0x0060) CS Modality  CS [1] = <x>"
    found = inspection.errors(f"{value_line('PN', 'A', 86)}\n{other}\n{_SUMMARY}")
    assert _SUMMARY in found
    assert len(found) == 2


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("Error - LO [1] = <S>ecret> - bad", "Error - LO [1] = <> - bad"),
        ("Error - LO [1] = <S>ec<ret>> - bad", "Error - LO [1] = <> - bad"),
        ("Error - LT [1] = <Secret", "Error - LT [1] = <>"),
        ("Error - LT [1] = <S>ecret", "Error - LT [1] = <>"),
        ("Error - bad <S>ecret> Element=<X> Module=<Y>", "Error - bad <> Element=<X> Module=<Y>"),
        (
            "Error - <Sec>ret> of attribute <Patient's Sex>",
            "Error - <> of attribute <Patient's Sex>",
        ),
        ("Error - missing Element=<X> Module=<Y>", "Error - missing Element=<X> Module=<Y>"),
    ],
)
def test_no_part_of_a_value_is_told_whatever_brackets_it_has(line: str, kept: str) -> None:
    assert inspection.errors(line) == {kept}


@pytest.mark.peer
def test_names_and_descriptions_in_any_script_may_be_sent(tmp_path: Path) -> None:
    program = inspection.installed()
    if program is None:
        pytest.skip("dciodvfy is not installed")
    film = sources.source()
    film.SpecificCharacterSet = "ISO_IR 192"
    film.PatientName = "Константинопольский^Александр^Владимирович"
    film.StudyDescription = "胸部" * 16  # 32 characters, 96 bytes
    context = sources.context_of(film, tmp_path)
    inspector = inspection.Inspector(program)
    for kind in registry.kinds_for(context):
        ds = registry.build(kind, context)
        assert inspector.faults(ds, registry.encode(ds), tmp_path / "source.dcm") == (), kind


@pytest.mark.peer
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uids_that_the_source_brought_wrong_hold_no_result_back(
    tmp_path: Path, syntax: UID
) -> None:
    program = inspection.installed()
    if program is None:
        pytest.skip("dciodvfy is not installed")
    film = sources.source()
    film.StudyInstanceUID, film.SOPInstanceUID = "1.2.03.4", "1.2.840.010.7"
    context, path = sources.context_of(film, tmp_path), tmp_path / "source.dcm"
    kept = pydicom.dcmread(path)
    kept.file_meta.TransferSyntaxUID = syntax
    kept.save_as(path)
    inspector = inspection.Inspector(program)
    for kind in registry.kinds_for(context):
        ds = registry.build(kind, context)
        assert inspector.faults(ds, registry.encode(ds), path) == (), kind


def test_a_uid_that_is_wrong_in_another_way_than_the_source_s_is_ours() -> None:
    def line(tag: str, complaint: str) -> str:
        return f"Error - Value invalid for this VR - ({tag}) UI Name  UI [1] = <> - {complaint}"

    source = frozenset({line("0x0008,0x0018", "Leading zeroes")})
    ours = frozenset({line("0x0008,0x1155", "Leading zeroes"), line("0x0020,0x000e", "Bad length")})
    assert inspection._ours(ours, source) == {line("0x0020,0x000e", "Bad length")}
