import pytest
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR

from dicom_node import orientation
from dicom_node.config import Rule
from dicom_node.radiograph import SourceHeader
from dicom_node.routing import rules


def rule(name: str, **match: str | list[str]) -> Rule:
    return Rule.model_validate(
        {"name": name, "match": match, "results": ["secondary_capture"], "destinations": ["pacs"]}
    )


def film(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def header(ds: Dataset, *left_out: str) -> SourceHeader:
    return SourceHeader(
        dataset=ds,
        left_out=frozenset(left_out),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        rows=0,
        columns=0,
        orientation=orientation.of(ds, 0, 0),
        spacing_mm=None,
        spacing_plane="",
        aspect=1.0,
    )


FRONTAL = rule("frontal-chest", Modality=["CR", "DX", "RG"])


def matches(ds: Dataset, one: Rule, calling: str = "CR1", called: str = "VALD") -> bool:
    return rules.match(ds, calling, called, [one]) is one


def test_one_of_the_values_must_match() -> None:
    assert matches(film(Modality="DX"), FRONTAL)
    assert not matches(film(Modality="CT"), FRONTAL)


def test_all_keywords_must_match() -> None:
    both = rule("both", Modality="CR", BodyPartExamined="CHEST")
    assert matches(film(Modality="CR", BodyPartExamined="CHEST"), both)
    assert not matches(film(Modality="CR", BodyPartExamined="HAND"), both)


def test_the_first_rule_that_matches_wins() -> None:
    first, second = rule("first", Modality="CR"), rule("second", Modality="*")
    assert rules.match(film(Modality="CR"), "A", "B", [first, second]) is first
    assert rules.match(film(Modality="DX"), "A", "B", [first, second]) is second


def test_a_rule_without_conditions_matches_all() -> None:
    assert matches(film(), rule("all"))


def test_stars_and_question_marks_are_wild_and_brackets_are_not() -> None:
    assert matches(film(StudyDescription="XR CHEST 2 views"), rule("r", StudyDescription="*chest*"))
    assert matches(film(StationName="DX12"), rule("r", StationName="DX??"))
    assert not matches(film(StationName="DX1"), rule("r", StationName="DX??"))
    assert matches(film(StationName="A[1]"), rule("r", StationName="a[1]"))
    assert not matches(film(StationName="A1"), rule("r", StationName="A[1]"))


def test_any_of_several_values_may_match() -> None:
    ds = film(ImageType=["DERIVED", "PRIMARY", "POST_PROCESSED"])
    assert matches(ds, rule("r", ImageType="PRIMARY"))
    assert not matches(ds, rule("r", ImageType="SECONDARY"))


def test_numbers_match_as_they_are_written() -> None:
    assert matches(film(Rows=2048), rule("r", Rows="2048"))
    assert matches(film(SeriesNumber="3"), rule("r", SeriesNumber=["3"]))


def test_an_absent_value_matches_only_the_empty_text() -> None:
    maybe = rule("r", ViewPosition=["PA", ""])
    assert matches(film(), maybe)
    assert matches(film(ViewPosition=""), maybe)
    assert matches(film(ViewPosition=None), maybe)
    assert not matches(film(ViewPosition="LL"), maybe)
    assert not matches(film(), rule("r", ViewPosition="?*"))


def test_the_association_matches_by_its_ae_titles() -> None:
    ward = rule("ward", CallingAET="ICU*", CalledAET="VALD")
    assert matches(film(), ward, calling="ICU3 ")
    assert not matches(film(), ward, calling="CR1")
    assert not matches(film(), ward, calling="ICU3", called="OTHER")


def why(ds: Dataset, *tried: Rule) -> str:
    return rules.explain(header(ds), "CR1", "VALD", tried)


def test_the_reason_says_what_is_and_what_is_wanted() -> None:
    assert why(film(Modality="CT"), FRONTAL) == (
        "no rule matches: Modality is CT, rule frontal-chest wants CR, DX or RG"
    )
    assert why(film(), FRONTAL) == (
        "no rule matches: Modality is absent, rule frontal-chest wants CR, DX or RG"
    )


def test_the_reason_goes_through_every_rule() -> None:
    other = rule("icu", CallingAET="ICU*")
    assert why(film(Modality="CT"), FRONTAL, other) == (
        "no rule matches: Modality is CT, rule frontal-chest wants CR, DX or RG; "
        "CallingAET is CR1, rule icu wants ICU*"
    )


def test_without_rules_there_is_a_reason_too() -> None:
    assert why(film()) == "no rule matches: there is none"


def test_there_is_nothing_to_explain_where_a_rule_matches() -> None:
    assert why(film(Modality="CR"), FRONTAL) == ""


def test_the_reason_names_no_patient() -> None:
    ds = film(PatientName="Doe^Jane", PatientSex="F", StudyDescription="Doe's knee")
    for keyword in ("PatientName", "PatientSex", "StudyDescription"):
        assert why(ds, rule("r", **{keyword: "x"})) == (
            f"no rule matches: {keyword} is not what rule r wants"
        )


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Modality", "DOE^JOHN 19500101"),
        ("Modality", "Doe"),
        ("Modality", "Q" * 17),
        ("Modality", ["CR", "DOE^JOHN"]),
        ("Modality", ["CR"] * 17),
        ("ImageType", "Q" * 60_000),
        ("SOPClassUID", "DOE^JOHN"),
        ("SOPClassUID", "19500101"),
        ("SOPClassUID", "1.2." + "3" * 61),
        ("Manufacturer", "Q" * 65),
    ],
)
def test_a_value_that_is_no_code_or_uid_is_not_shown(keyword: str, value: str | list[str]) -> None:
    ds = Dataset()
    vr = dictionary_VR(keyword)
    ds[keyword] = DataElement(keyword, vr, value, validation_mode=0)
    said = why(ds, rule("r", **{keyword: "x"}))
    assert said == f"no rule matches: {keyword} is not what rule r wants"


def test_codes_and_uids_are_shown() -> None:
    ds = film(ImageType=["DERIVED", "", "POST_CONTRAST 2"], SOPClassUID="1.2.840.0.7")
    said = why(ds, rule("r", ImageType="x"), rule("s", SOPClassUID="y"))
    assert said == (
        "no rule matches: ImageType is DERIVED\\\\POST_CONTRAST 2, rule r wants x; "
        "SOPClassUID is 1.2.840.0.7, rule s wants y"
    )
