"""What is taken over from dciodvfy: neither its mistakes, nor a patient's data."""

from pathlib import Path

import pydicom
import pytest
from pydicom import uid

from dicom_node.errors import InspectionError
from dicom_node.results import inspection, registry
from dicom_node.results.inspection import Inspector
from dicom_node.results.provenance import ResultContext
from tests.results import sources

_SUMMARY = "Error - Dicom dataset contains invalid data values for Value Representations"


def value_line(vr: str, value: str, length: int) -> str:
    return (
        f"Error - Value invalid for this VR - (0x0008,0x1030) {vr} Text  {vr} [1] = <{value}>"
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
        (
            'Error - Illegal root for UID - "<S>"ecret" in (0x0008,0x0018) SOP Instance UID',
            'Error - Illegal root for UID - "" in (0x0008,0x0018) SOP Instance UID',
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
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize(
    "wrong", ["1.2.840.010.7", "1." + "3" * 62, "3.4.5", "2.999.1", "1.2.840.10008.99.99"]
)
def test_uids_that_the_source_brought_wrong_hold_no_result_back(
    tmp_path: Path, syntax: uid.UID, wrong: str
) -> None:
    program = inspection.installed()
    if program is None:
        pytest.skip("dciodvfy is not installed")
    film = sources.source()
    film.StudyInstanceUID, film.SOPInstanceUID = "1.2.03.4", wrong
    context, path = sources.context_of(film, tmp_path), tmp_path / "source.dcm"
    kept = pydicom.dcmread(path)
    kept.file_meta.TransferSyntaxUID = syntax
    kept.save_as(path)
    inspector = inspection.Inspector(program)
    for kind in registry.kinds_for(context):
        ds = registry.build(kind, context)
        assert inspector.faults(ds, registry.encode(ds), path) == (), kind


_ZEROES = "Leading zeroes in embedded numeric component(s)"


def judged(of_result: str, of_source: str, context: ResultContext, folder: Path) -> tuple[str, ...]:
    """What is ours, where a validator says this of the result and that of its source."""
    program, film = folder / "dciodvfy", folder / "source.dcm"
    (folder / "result.txt").write_text(of_result)
    (folder / "source.txt").write_text(of_source)
    program.write_text(
        f'#!/bin/sh\n[ "$1" = {film} ] && exec cat {folder}/source.txt\ncat {folder}/result.txt\n'
    )
    program.chmod(0o755)
    ds = registry.build("structured_report", context)
    return Inspector(program).faults(ds, registry.encode(ds), film)


def test_a_fault_is_the_source_s_whatever_its_counts(
    context: ResultContext, tmp_path: Path
) -> None:
    line = "Error - bad - (0x0008,0x0060) CS Modality  CS [{}] = <> - length {}"
    assert judged(line.format(1, 18), line.format(2, 40), context, tmp_path) == ()
    other = line.replace("0060", "0061").format(1, 18)
    assert judged(other, line.format(1, 18), context, tmp_path) == (other,)


@pytest.mark.parametrize(
    "wrong",
    [
        f"Error - UI - {{tag}} UI {{name}} UID - {_ZEROES}",
        "Error - Value invalid for this VR - {tag} UI {name} UID  UI [1] = <1..2> - Empty part",
        'Error - Illegal root for UID uses non-existent ISO arc - "1.333.4" in {tag} {name} UID',
        'Error - Illegal root for UID - "3.4.5" in {tag} {name} UID',
    ],
)
def test_what_is_wrong_with_a_source_s_uid_is_not_ours_under_another_name(
    context: ResultContext, tmp_path: Path, wrong: str
) -> None:
    ours = wrong.format(tag="(0x0008,0x1155)", name="Referenced SOP Instance")
    theirs = wrong.format(tag="(0x0008,0x0018)", name="SOP Instance")
    assert judged(ours, theirs, context, tmp_path) == ()
    (told,) = judged(ours, "", context, tmp_path)
    assert "(0x0008,0x1155)" in told


def test_another_thing_wrong_with_a_uid_than_with_the_source_s_is_ours(
    context: ResultContext, tmp_path: Path
) -> None:
    theirs = 'Error - Illegal root for UID - "3.4" in (0x0008,0x0018) SOP Instance UID'
    ours = f"Error - UI - (0x0008,0x0018) UI SOP Instance UID - {_ZEROES}"
    assert judged(ours, theirs, context, tmp_path) == (ours,)


def test_what_a_pacs_files_by_holds_nothing_back() -> None:
    line = "Error - Value invalid for this VR - (0x0020,0x0010) SH Study ID  SH [1] = <x> - bad"
    assert inspection.errors(f"{line}\n{_SUMMARY}") == frozenset()


@pytest.mark.parametrize(
    ("script", "said"),
    [(None, "did not judge: No such file or directory"), ("kill -SEGV $$", "ended by signal 11")],
)
def test_a_validator_that_does_not_judge_is_no_clean_bill(
    context: ResultContext, tmp_path: Path, script: str | None, said: str
) -> None:
    program = tmp_path / "dciodvfy"
    if script:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    ds = registry.build("structured_report", context)
    with pytest.raises(InspectionError, match=said):
        Inspector(program).faults(ds, registry.encode(ds), tmp_path / "source.dcm")


@pytest.mark.peer
def test_a_deflated_source_is_judged_as_it_was_before(tmp_path: Path) -> None:
    program = inspection.installed()
    if program is None:
        pytest.skip("dciodvfy is not installed")
    film = sources.source()
    film.Manufacturer = ""
    path = sources.write(film, tmp_path / "film.dcm")
    context = sources.context(path)
    film.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    # Leading zeroes that dciodvfy finds in film and report alike.
    ds = registry.build("structured_report", context)
    ds.StudyInstanceUID = "1.2.03.4"
    film.StudyInstanceUID = "1.2.03.4"
    film.save_as(tmp_path / "deflated.dcm")
    assert Inspector(program).faults(ds, registry.encode(ds), tmp_path / "deflated.dcm") == ()
    assert Inspector(program).faults(ds, registry.encode(ds), path) != ()
