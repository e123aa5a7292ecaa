"""Sources that break the standard still get results, under the name their PACS knows."""

from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import DataElement, Dataset, config
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.errors import InputError
from dicom_node.results import carried, conformity, registry
from tests.results import sources, tools


def made(ds: Dataset, folder: Path) -> list[Dataset]:
    context = sources.context_of(ds, folder)
    encoded = (
        registry.encode(registry.build(kind, context)) for kind in registry.kinds_for(context)
    )
    return [pydicom.dcmread(BytesIO(data)) for data in encoded]


def put(ds: Dataset, keyword: str, vr: str, value: object) -> None:
    ds[keyword] = DataElement(keyword, vr, value, validation_mode=config.IGNORE)


def put_raw(ds: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """What pydicom itself would refuse to make."""
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("GB18030", "Cheng^X=乗^小东"),  # 乗 is 81 5C: half of it looks like a backslash
        ("GBK", "Cheng^X=乗^小东"),
        ("ISO_IR 100", "Äneas^Rüdiger"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
    ],
)
def test_a_name_in_any_script_reads_the_same(
    tmp_path: Path, charset: str | list[str], name: str
) -> None:
    source = sources.source()
    source.SpecificCharacterSet, source.PatientName = charset, name
    for ds in made(source, tmp_path):
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert str(ds.PatientName) == name


def test_no_switch_of_character_set_stays_in_a_name_or_an_id(tmp_path: Path) -> None:
    source = sources.source()
    source.SpecificCharacterSet = ["", "ISO 2022 IR 58"]
    switch = b"\x1b$)A"
    wang, dong = "王".encode("gb2312"), "小东".encode("gb2312")
    name = b"Wang^XiaoDong=" + switch + wang + b"^" + switch + dong
    put_raw(source, "PatientName", "PN", name + b" " * (len(name) % 2))
    put_raw(source, "PatientID", "LO", switch + wang)
    for ds in made(source, tmp_path):
        assert str(ds.PatientName) == "Wang^XiaoDong=王^小东"
        assert ds.PatientID == "王"


@pytest.mark.parametrize(
    "keyword",
    ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"],
)
@pytest.mark.parametrize("value", [None, "", "no uid"])
def test_a_film_that_cannot_be_referred_to_is_refused(
    tmp_path: Path, keyword: str, value: str | None
) -> None:
    context = sources.context_of(sources.source(), tmp_path)
    header = context.header.dataset
    del header[keyword]
    if value is not None:
        put(header, keyword, "UI", value)
    for kind in registry.kinds_for(context):
        with pytest.raises(InputError, match=keyword):
            registry.build(kind, context)


def test_absent_type_2_attributes_become_empty(tmp_path: Path) -> None:
    source = sources.source()
    names = (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
        "ReferringPhysicianName", "StudyID", "AccessionNumber",
    )  # fmt: skip
    for keyword in (*names, "SeriesNumber", "InstanceNumber", "PatientAge", "IssuerOfPatientID"):
        del source[keyword]
    for ds in made(source, tmp_path):
        assert [keyword for keyword in names if keyword not in ds or ds[keyword].value] == []
        assert "PatientAge" not in ds
        assert ds.InstanceNumber == 1


def test_what_breaks_its_vr_is_repaired_or_left_out(tmp_path: Path) -> None:
    source = sources.source()
    put(source, "PatientAge", "AS", "77")
    put(source, "PatientBirthDate", "DA", "1950.01.02")
    put(source, "StudyTime", "TM", "11:22:07")
    put(source, "StudyDate", "DA", "yesterday")
    put(source, "PatientSex", "CS", "female")
    put_raw(source, "PatientWeight", "DS", b"heavy ")
    put(source, "TimezoneOffsetFromUTC", "SH", "CET")
    put_raw(source, "InstanceNumber", "IS", b"two ")
    for ds in made(source, tmp_path):
        assert "PatientAge" not in ds
        assert (ds.PatientBirthDate, ds.StudyTime) == ("19500102", "112207")
        assert (ds.StudyDate, ds.PatientSex) == ("", "")
        assert "PatientWeight" not in ds
        assert ds.InstanceNumber == 1


def test_an_identifier_is_carried_whole_even_where_too_long(tmp_path: Path) -> None:
    source = sources.source()
    put(source, "AccessionNumber", "SH", "A" * 24)
    put(source, "PatientID", "LO", "P" * 70)
    for ds in made(source, tmp_path):
        assert (ds.AccessionNumber, ds.PatientID) == ("A" * 24, "P" * 70)


@pytest.mark.parametrize(
    ("stated", "carried_over"),
    [
        (["Names removed", "Dates moved"], ["Names removed", "Dates moved"]),
        (["M" * 70, "Dates moved"], ["M" * 64, "Dates moved"]),
        ("M" * 70, "M" * 64),
    ],
)
def test_how_identity_was_removed_is_carried(
    tmp_path: Path, stated: str | list[str], carried_over: str | list[str]
) -> None:
    source = sources.source()
    source.PatientIdentityRemoved = "YES"
    put(source, "DeidentificationMethod", "LO", stated)
    for ds in made(source, tmp_path):
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.DeidentificationMethod == carried_over
        assert conformity.check(ds) == ()


@pytest.mark.parametrize("coded", [True, False])
def test_removed_identity_is_told_with_a_method_or_a_code_only(tmp_path: Path, coded: bool) -> None:
    source, code = sources.source(), Dataset()
    source.PatientIdentityRemoved = "YES"
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic"
    source.DeidentificationMethodCodeSequence = [code] if coded else []
    for ds in made(source, tmp_path):
        assert ("PatientIdentityRemoved" in ds) is coded
        assert "DeidentificationMethod" not in ds


def test_issuers_are_carried(tmp_path: Path) -> None:
    source, issuer = sources.source(), Dataset()
    issuer.LocalNamespaceEntityID = "RIS-1"
    source.IssuerOfAccessionNumberSequence = [issuer]
    for ds in made(source, tmp_path):
        assert ds.IssuerOfPatientID == "HOSPITAL"
        assert ds.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS-1"


def test_no_private_or_image_attribute_of_the_source_comes_along(tmp_path: Path) -> None:
    source = sources.source()
    source.InstitutionName, source.OperatorsName = "Elsewhere", "Doe^J"
    source.private_block(0x0029, "SOMEONE", create=True).add_new(1, "LO", "secret")
    for ds in made(source, tmp_path):
        assert "InstitutionName" not in ds
        assert "OperatorsName" not in ds
        assert not [element for element in ds if element.tag.is_private]


@pytest.mark.peer
def test_uids_of_64_characters_are_carried_whole(tmp_path: Path) -> None:
    source = sources.source()
    uids = {
        keyword: f"1.2.{digit * 60}"
        for keyword, digit in (
            ("StudyInstanceUID", "3"),
            ("SeriesInstanceUID", "4"),
            ("SOPInstanceUID", "5"),
        )
    }
    for keyword, value in uids.items():
        setattr(source, keyword, value)
    for ds in made(source, tmp_path):
        assert ds.StudyInstanceUID == uids["StudyInstanceUID"]
        assert max(len(ds.SeriesInstanceUID), len(ds.SOPInstanceUID)) <= 64
        path = tmp_path / "result.dcm"
        ds.save_as(path)
        assert tools.dciodvfy_errors(path) == set()


def test_private_bulk_makes_no_result_larger(tmp_path: Path) -> None:
    source = sources.source()
    plain = [len(ds.to_json()) for ds in made(source, tmp_path)]
    source.private_block(0x0029, "SOMEONE", create=True).add_new(1, "OB", bytes(10 << 20))
    assert [len(ds.to_json()) for ds in made(source, tmp_path)] == plain


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing"])
def test_a_spacing_of_nothing_is_passed_on_to_no_result(tmp_path: Path, keyword: str) -> None:
    source = sources.source()
    setattr(source, keyword, [0, 0])
    for ds in made(source, tmp_path):
        assert not [e for e in ds.iterall() if "Spacing" in e.keyword]


@pytest.mark.parametrize("orientation", [["LATERAL", "X"], ["L"], ["L", "L"]])
def test_an_orientation_that_is_none_is_left_empty(tmp_path: Path, orientation: list[str]) -> None:
    source = sources.source()
    put(source, "PatientOrientation", "CS", orientation)
    for ds in made(source, tmp_path):
        if "PatientOrientation" in ds:
            assert not ds.PatientOrientation
            path = tmp_path / "result.dcm"
            ds.save_as(path)
            assert tools.dciodvfy_errors(path) == set()


@pytest.mark.peer
def test_results_of_a_hostile_source_have_no_error_that_it_has_not(tmp_path: Path) -> None:
    source = sources.source()
    for keyword in ("PatientName", "PatientBirthDate", "StudyTime", "ReferringPhysicianName"):
        del source[keyword]
    put(source, "PatientAge", "AS", "77")
    put(source, "PatientID", "LO", "")
    source.PixelSpacing, source.Laterality = [0, 0], ""
    known = tools.dciodvfy_errors(sources.write(source, tmp_path / "hostile.dcm"))
    for ds in made(source, tmp_path):
        path = tmp_path / "result.dcm"
        ds.save_as(path)
        assert tools.dciodvfy_errors(path) - known == set()


@pytest.mark.parametrize("offset", ["+9999", "-1561", "+1500", "0100", "+01"])
def test_a_time_zone_that_is_none_counts_as_absent(tmp_path: Path, offset: str) -> None:
    source = sources.source()
    put(source, "TimezoneOffsetFromUTC", "SH", offset)
    for ds in made(source, tmp_path):
        assert "TimezoneOffsetFromUTC" not in ds
        assert "ContentDate" in ds or "PresentationCreationDate" in ds


def test_a_compression_method_that_is_no_code_is_left_out(tmp_path: Path) -> None:
    source = sources.source()
    source.LossyImageCompression, source.LossyImageCompressionRatio = "01", [10, 0]
    put(source, "LossyImageCompressionMethod", "CS", ["ISO_10918_1", "x y_lower$$"])
    capture, *_ = made(source, tmp_path)
    assert capture.LossyImageCompression == "01"
    assert "LossyImageCompressionMethod" not in capture
    assert "LossyImageCompressionRatio" not in capture


@pytest.mark.parametrize("broken", ["...", "1..2", ".1.2", "1.2."])
def test_a_uid_of_empty_parts_names_nothing(tmp_path: Path, broken: str) -> None:
    source = sources.source()
    put(source, "SeriesInstanceUID", "UI", broken)
    with pytest.raises(InputError, match="SeriesInstanceUID"):
        made(source, tmp_path)


def test_a_sequence_that_breaks_off_is_no_loss() -> None:
    source = sources.source()
    put_raw(source, "IssuerOfPatientIDQualifiersSequence", "SQ", b"\xfe\xff\xfe\x20")
    target = Dataset()
    carried.put_patient_and_study(target, source)
    assert "IssuerOfPatientIDQualifiersSequence" not in target
    assert target.PatientID == source.PatientID
