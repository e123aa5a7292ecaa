"""Which films are turned away by their header, and in what words."""

from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from dicom_node.routing import guards


def film(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def coded(keyword: str, value: str, meaning: str = "") -> Dataset:
    return film(**{keyword: [film(CodeValue=value, CodeMeaning=meaning)]})


@pytest.mark.parametrize(
    "word", ["CHEST", "chest ", "THORAX", "LUNG", "", "CHESTABDOMEN", "XYZ", "THX PA", "HEART"]
)
def test_a_chest_or_a_word_nobody_knows_is_let_in(word: str) -> None:
    assert guards.body_part(film(BodyPartExamined=word)) == ""
    assert guards.body_part(film()) == ""


@pytest.mark.parametrize("word", ["HIP", "EXTREMITY", "HAND", "ABDOMEN", "C-SPINE", "RIBCAGE"])
def test_another_part_of_the_body_is_turned_away(word: str) -> None:
    assert guards.body_part(film(BodyPartExamined=word)) == (
        f"BodyPartExamined is {word}, not the chest"
    )


@pytest.mark.parametrize(
    ("code", "meaning", "let_in"),
    [
        ("816094009", "Chest", True),
        ("51185008", "Thorax", True),
        ("T-D3000", "Chest", True),
        ("72696002", "Knee", False),
        ("T-D8700", "Hand", False),
        ("LOCAL7", "Thorax", True),
        ("LOCAL8", "Lower leg", False),
        ("LOCAL9", "Something", True),
    ],
)
def test_the_region_is_read_by_code_or_meaning(code: str, meaning: str, let_in: bool) -> None:
    reason = guards.body_part(coded("AnatomicRegionSequence", code, meaning))
    assert (reason == "") is let_in


def test_where_word_and_region_disagree_the_picture_decides() -> None:
    ds = coded("AnatomicRegionSequence", "51185008")
    ds.BodyPartExamined = "SHOULDER"
    assert guards.body_part(ds) == ""


@pytest.mark.parametrize(
    ("view", "word"),
    [
        ("PA", ""),
        ("AP", ""),
        ("", ""),
        ("LLD", ""),
        ("LL", "lateral"),
        ("RL", "lateral"),
        ("LATERAL", "lateral"),
        ("RLO", "oblique"),
    ],
)
def test_views_from_the_side_are_turned_away(view: str, word: str) -> None:
    reason = guards.lateral(film(ViewPosition=view))
    assert (word in reason) if word else (reason == "")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("399348003", ""),  # antero-posterior
        ("272479007", ""),  # postero-anterior
        ("399067008", "lateral"),
        ("399173006", "lateral"),  # left lateral
        ("R-10236", "lateral"),
        ("399135007", "oblique"),  # left anterior oblique
    ],
)
def test_views_are_read_by_code_too(code: str, word: str) -> None:
    reason = guards.lateral(coded("ViewCodeSequence", code))
    assert (word in reason) if word else (reason == "")


@pytest.mark.parametrize(
    ("age", "young"),
    [
        ("017Y", True),
        ("018Y", False),
        ("090Y", False),
        ("215M", True),
        ("216M", False),
        ("900W", True),
        ("940W", False),
        ("999D", True),
        ("000Y", True),
        ("17", False),
        ("abc", False),
        ("", False),
    ],
)
def test_a_child_is_known_by_its_age(age: str, young: bool) -> None:
    ds = Dataset()
    ds.add_new(0x00101010, "LO", age)  # as it may come, not as VR AS would have it
    assert bool(guards.paediatric(ds)) is young


@pytest.mark.parametrize(
    ("born", "examined", "young"),
    [
        ("20060506", "20240505", True),
        ("20060506", "20240506", False),
        ("20060229", "20240228", False),  # no such birthday
        ("20080229", "20260228", True),
        ("20300101", "20240101", False),  # born after the study
        ("", "20240101", False),
        ("2006", "20240101", False),
    ],
)
def test_a_child_is_known_by_its_birth_date(born: str, examined: str, young: bool) -> None:
    ds = Dataset()
    ds.add_new(0x00100030, "LO", born)
    ds.add_new(0x00080020, "LO", examined)
    assert bool(guards.paediatric(ds)) is young


def test_a_valid_age_goes_before_dates() -> None:
    ds = film(PatientAge="040Y", PatientBirthDate="20200101", StudyDate="20240101")
    assert guards.paediatric(ds) == ""
    ds = film(PatientBirthDate="20200101", StudyDate="20240101")
    ds.add_new(0x00101010, "LO", "forty")
    assert guards.paediatric(ds) != ""


def test_the_raw_twin_is_turned_away() -> None:
    assert "twin" in guards.for_processing(film(PresentationIntentType="FOR PROCESSING"))
    assert "twin" in guards.for_processing(film(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"))
    assert guards.for_processing(film(PresentationIntentType="FOR PRESENTATION")) == ""
    assert guards.for_processing(film(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1")) == ""


OURS = {"Manufacturer": "VALD Node", "ManufacturerModelName": "VALD Node"}
THEIRS = {"Manufacturer": "Acme", "ManufacturerModelName": "DX 1"}


def test_our_own_results_are_turned_away() -> None:
    own = "it is a result of this node or of another one like it"
    derived = ["DERIVED", "SECONDARY"]
    assert guards.synthetic(film(ContributingEquipmentSequence=[film(**OURS)])) == own
    assert guards.synthetic(film(ImageType=derived, **OURS)) == own
    assert guards.synthetic(film(ImageType=derived, **THEIRS)) == ""
    assert guards.synthetic(film(ContributingEquipmentSequence=[film(**THEIRS)])) == ""


def test_synthetic_pictures_are_turned_away() -> None:
    assert guards.synthetic(film(SyntheticData="YES")) != ""
    assert guards.synthetic(film(SyntheticData="NO")) == ""


def test_an_ordinary_dx_is_derived_and_let_in() -> None:
    ds = film(ImageType=["DERIVED", "PRIMARY"], Modality="DX", BodyPartExamined="CHEST", **THEIRS)
    assert guards.first_reason(ds) == ""


def test_a_waived_guard_is_not_asked() -> None:
    ds = film(SyntheticData="YES", BodyPartExamined="HAND")
    assert "SyntheticData" in guards.first_reason(ds)
    assert "HAND" in guards.first_reason(ds, waived=("synthetic",))
    assert guards.first_reason(ds, waived=("synthetic", "body_part")) == ""


def test_values_that_break_every_rule_count_as_absent() -> None:
    broken = Dataset()
    broken.add_new(0x00181200, "LO", "x")
    for tag in (0x00180015, 0x00185101, 0x00082218, 0x00540220, 0x0018A001, 0x00101010, 0x00080008):
        broken.add_new(tag, "OB", b"\xff\xfe\x00\x01")
    assert guards.first_reason(broken) == ""


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nih-dx-chest-effusion.dcm", ""),
        ("nih-dx-chest-no-finding.dcm", ""),
        ("rg1-chest-philips-mono1-15bit-jpeg2000.dcm", ""),
        ("cr-mono1-10-chest-fuji-no-preamble.dcm", ""),
        ("siim-cr-chest-mono2-jpeg-baseline.dcm", ""),
        ("nih-dx-bodypart-ribcage.dcm", "BodyPartExamined is RIBCAGE, not the chest"),
        ("rg2-hip-fuji-mono2-jpeg-extended.dcm", "BodyPartExamined is HIP, not the chest"),
        (
            "rg3-ankle-fuji-mono1-10bit-rle.dcm",
            "BodyPartExamined is EXTREMITY, not the chest",
        ),
    ],
)
def test_real_films_have_their_fate(dicom_films: Path, name: str, reason: str) -> None:
    header = pydicom.dcmread(dicom_films / name, force=True, stop_before_pixels=True)
    assert guards.first_reason(header) == (f"{reason} (guard body_part)" if reason else "")
