from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom import sr
from pydicom import Dataset, uid
from pydicom.sr.coding import Code

from dicom_node.results import codes, conformity, geometry, registry
from dicom_node.results.provenance import ResultContext
from pipeline.types import Region, Status
from tests.results import sources


def film_group(ds: Dataset) -> sr.MeasurementsAndQualitativeEvaluations:
    """What is said of the whole film: TID 1501 in a root container of its own."""
    (film,) = [
        item
        for item in ds.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == codes.COMPARED_FILM.value
    ]
    return sr.MeasurementsAndQualitativeEvaluations.from_sequence(film.ContentSequence)


def made(context: ResultContext) -> Dataset:
    return pydicom.dcmread(BytesIO(registry.encode(registry.build("structured_report", context))))


Region2D = sr.PlanarROIMeasurementsAndQualitativeEvaluations
AREA = Code("42798000", "SCT", "Area")


def report(context: ResultContext) -> sr.MeasurementReport:
    content = sr.ComprehensiveSR.from_dataset(made(context)).content
    assert isinstance(content, sr.MeasurementReport)
    return content


def regions(context: ResultContext) -> list[Region2D]:
    return list(report(context).get_planar_roi_measurement_groups())


def film(context: ResultContext) -> sr.MeasurementsAndQualitativeEvaluations:
    return film_group(made(context))


def values(
    group: sr.MeasurementsAndQualitativeEvaluations | Region2D,
) -> dict[str, tuple[float, str]]:
    """Name's code value (with the derivation's) -> value and unit."""
    found = {}
    for item in group.get_measurements():
        key = item.name.value
        if item.derivation is not None:
            key += f" {item.derivation.value}"
        found[key] = (float(item.value), item.unit.value)
    return found


def texts(ds: Dataset, code_value: str) -> list[str]:
    """Values of all TEXT items of this concept, at any depth."""
    found = []
    for item in ds.get("ContentSequence", ()):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].CodeValue == code_value and item.ValueType == "TEXT":
            found.append(str(item.TextValue))
        found += texts(item, code_value)
    return found


def test_it_is_a_comprehensive_sr_after_tid_1500(context: ResultContext) -> None:
    ds = made(context)
    assert ds.SOPClassUID == uid.ComprehensiveSRStorage
    assert (ds.Modality, ds.SeriesNumber) == ("SR", 9002)
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert ds.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert (ds.CompletionFlag, ds.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert (ds.SyntheticData, ds.ContentQualification) == ("YES", "RESEARCH")


def test_its_evidence_is_the_source(context: ResultContext) -> None:
    (study,) = made(context).CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (image,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3.4.1", "1.2.3.4.2")
    assert image.ReferencedSOPInstanceUID == "1.2.3.4.3"


def test_every_image_reference_is_in_the_evidence(context: ResultContext) -> None:
    found: set[str] = set()

    def visit(ds: Dataset) -> None:
        for item in ds.get("ContentSequence", ()):
            found.update(r.ReferencedSOPInstanceUID for r in item.get("ReferencedSOPSequence", ()))
            visit(item)

    visit(made(context))
    assert found == {"1.2.3.4.3"}


def test_a_region_is_a_closed_polyline_in_stored_pixels(context: ResultContext) -> None:
    (group,) = regions(context)
    assert isinstance(group.roi, sr.ImageRegion)
    assert group.roi.graphic_type == sr.GraphicTypeValues.POLYLINE
    # Columns 250 to 325, rows 50 to 100; column first.
    expected = [(250, 50), (325, 50), (325, 100), (250, 100), (250, 50)]
    assert [tuple(point) for point in group.roi.value] == expected
    assert group.finding_type == codes.REGION
    assert group.tracking_identifier == "Region 1"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_every_imaging_measurement_group_has_coordinates(
    context: ResultContext, count: int
) -> None:
    """Else OHIF 3.13 shows nothing of the report."""
    found = replace(context.attribution, regions=context.attribution.regions * count)
    ds = made(replace(context, attribution=found))
    names = [item.ConceptNameCodeSequence[0].CodeValue for item in ds.ContentSequence]
    assert ("126010" in names, "C0034375" in names) == (count > 0, count == 0)  # rows 6 and 12
    groups = ds.ContentSequence[names.index("126010")].ContentSequence if count else []
    assert len(groups) == count
    for group in groups:
        assert "SCOORD" in [item.ValueType for item in group.ContentSequence]


def test_a_region_has_its_numbers(context: ResultContext) -> None:
    (group,) = regions(context)
    assert values(group) == {
        "42798000": (3750, "{pixels}"),  # the film states no spacing
        "VALD014 56851009": (0.375, "1"),
        "VALD015 373098007": (0.25, "1"),
    }


@pytest.mark.parametrize(
    ("keyword", "method"), [("ImagerPixelSpacing", "VALD020"), ("PixelSpacing", "VALD021")]
)
def test_an_area_in_mm2_names_the_plane_of_its_spacing(
    tmp_path: Path, keyword: str, method: str
) -> None:
    source = sources.source()
    setattr(source, keyword, [0.2, 0.1])
    (group,) = regions(sources.context_of(source, tmp_path))
    (area,) = group.get_measurements(name=AREA)
    assert area.method is not None
    assert float(area.value) == pytest.approx(75.0)  # 3750 * 0.2 * 0.1
    assert (area.unit.value, area.method.value) == ("mm2", method)


def test_a_pixel_aspect_ratio_alone_gives_no_mm2(tmp_path: Path) -> None:
    source = sources.source()
    source.PixelAspectRatio = [2, 1]
    (group,) = regions(sources.context_of(source, tmp_path))
    assert values(group)["42798000"] == (3750, "{pixels}")


def test_the_film_has_status_score_uncertainty_and_threshold(context: ResultContext) -> None:
    group = film(context)
    assert values(group) == {
        "VALD003": (0.75, "1"),
        "VALD004": (0.0125, "1"),
        "VALD005": (0.1, "1"),
    }
    (status,) = group.get_qualitative_evaluations(name=codes.STATUS)
    assert status.value == codes.STATUS_VALUES["VALID"]


def test_the_reasons_are_in_it(context: ResultContext) -> None:
    low = sources.with_status(context, Status.LOW_CONFIDENCE, "seeds disagree", "far from training")
    ds = made(low)
    assert texts(ds, "VALD007") == ["seeds disagree", "far from training"]
    (status,) = film(low).get_qualitative_evaluations(name=codes.STATUS)
    assert status.value == codes.STATUS_VALUES["LOW_CONFIDENCE"]
    assert "low confidence" in texts(ds, "121111")[0]


def test_a_withheld_result_reports_no_number_of_the_film(context: ResultContext) -> None:
    numbers = replace(context.attribution, probability=0.8, conformal_p=0.01)
    withheld = sources.with_status(
        replace(context, attribution=numbers), Status.WITHHELD, "seeds disagree"
    )
    assert set(values(film(withheld))) == {codes.THRESHOLD.value}


def test_a_withheld_result_reports_no_region(context: ResultContext) -> None:
    withheld = sources.with_status(context, Status.WITHHELD, "seeds disagree")
    assert regions(withheld) == []
    ds = made(withheld)
    assert ds.CompletionFlag == "PARTIAL"
    assert "Region 1" not in texts(ds, "121111")[0]
    assert "seeds disagree" in texts(ds, "121111")[0]


def test_the_algorithm_can_be_identified(context: ResultContext) -> None:
    ds = made(context)
    assert set(texts(ds, "111001")) == {"phantom"}
    assert set(texts(ds, "111003")) == {"1.2"}
    assert set(texts(ds, "111002")) == {
        f"model digest=sha256:{sources.DIGEST}",
        "mode=calibrated",
        "seed=7",
        "method version=1",
    }


def test_it_says_in_plain_words_what_was_found(context: ResultContext) -> None:
    (said,) = texts(made(context), "121111")
    assert said.startswith("AI-generated - research use only - not for diagnosis.")
    assert "One region differs by at least the threshold of 0.1" in said
    assert "Region 1: area 3750 pixels (the film states no pixel spacing)" in said
    assert "Score 0.75 (0 to 1)" in said


def test_a_film_without_regions_has_a_report_too(context: ResultContext) -> None:
    none = replace(context, attribution=replace(context.attribution, regions=()))
    assert regions(none) == []
    assert "No region differs" in texts(made(none), "121111")[0]


def test_regions_are_tracked_by_derived_uids(context: ResultContext) -> None:
    pair = replace(context.attribution, regions=context.attribution.regions * 2)
    first, second = regions(replace(context, attribution=pair))
    assert first.tracking_uid != second.tracking_uid
    assert first.tracking_uid == regions(context)[0].tracking_uid


def test_an_outline_beyond_the_image_ends_at_its_edge(context: ResultContext) -> None:
    outline = ((-2.0, 5.0), (5.0, 410.0), (310.0, 5.0), (-2.0, 5.0))
    region = Region(outline=outline, area_px=1, peak=1, mean=1)
    points = geometry.outline(context.header, region)
    assert points.tolist() == [[5, 0], [400, 5], [5, 300], [5, 0]]


@pytest.mark.parametrize("count", [4096, 4097, 50_000])
def test_an_endless_outline_is_thinned_to_what_the_field_holds(
    context: ResultContext, count: int
) -> None:
    angle = np.linspace(0, 2 * np.pi, count)
    loop = [(30 + 20 * float(np.sin(a)), 40 + 20 * float(np.cos(a))) for a in angle]
    outline = (*loop[:-1], loop[0])
    region = Region(outline=outline, area_px=1, peak=1, mean=1)
    points = geometry.outline(context.header, region)
    assert len(points) <= geometry.MOST_POINTS
    assert points[0].tolist() == points[-1].tolist()
    assert points[:, 0].max() == pytest.approx(60, abs=0.01)


def test_private_codes_fit_their_fields_and_their_scheme_is_described(
    context: ResultContext,
) -> None:
    assert all(len(meaning) <= 64 for meaning in codes.PRIVATE.values())
    assert all(len(value) <= 16 for value in codes.PRIVATE)
    (scheme,) = made(context).CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99VALD"


def test_the_same_context_gives_the_same_bytes(tmp_path: Path) -> None:
    path = sources.write(sources.source(), tmp_path / "film.dcm")
    first, second = (
        registry.encode(registry.build("structured_report", sources.context(path)))
        for _ in range(2)
    )
    assert first == second


def test_probability_and_conformal_p_stand_in_the_film_group_where_they_are_known(
    context: ResultContext,
) -> None:
    made = replace(context.attribution, probability=0.25, conformal_p=0.5)
    said = registry.build("structured_report", replace(context, attribution=made))
    values = numbers_of(said)
    assert (values["VALD013"], values["VALD009"]) == (0.25, 0.5)
    assert "VALD013" not in numbers_of(registry.build("structured_report", context))


def test_without_a_probability_conformal_p_stands_alone_in_numbers_and_words(
    context: ResultContext,
) -> None:
    alone = replace(context.attribution, conformal_p=0.5)
    ds = made(replace(context, attribution=alone))
    assert conformity.check(ds) == ()
    assert numbers_of(ds)["VALD009"] == 0.5
    assert "VALD013" not in numbers_of(ds)
    (said,) = texts(ds, "121111")
    assert "Of healthy films 50.0% score as high (conformal p)." in said
    assert "probability" not in said
    both = replace(alone, probability=0.25)
    (said,) = texts(made(replace(context, attribution=both)), "121111")
    assert (
        "Of healthy films 50.0% score as high (conformal p); if every second film had a finding, "
        "this one would with probability 0.25."
    ) in said


def numbers_of(node: Dataset) -> dict[str, float]:
    """Every number of a report by its concept's code value."""
    found: dict[str, float] = {}
    for item in node.get("ContentSequence", ()):
        if "MeasuredValueSequence" in item:
            name = item.ConceptNameCodeSequence[0].CodeValue
            found[name] = float(item.MeasuredValueSequence[0].NumericValue)
        found |= numbers_of(item)
    return found


def test_a_reason_without_words_is_not_told(context: ResultContext) -> None:
    given = sources.with_status(context, Status.LOW_CONFIDENCE, "", "seeds disagree")
    ds = registry.build("structured_report", given)
    assert conformity.check(ds) == ()
    assert ds.to_json().count(codes.REASON.value) == 1


def library(ds: Dataset) -> dict[str, object]:
    """The descriptors of the one image in the image library, by what they mean."""
    (found,) = [
        item
        for item in ds.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Image Library"
    ]
    (group,) = found.ContentSequence
    (image,) = group.ContentSequence
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.3"
    assert {item.RelationshipType for item in image.ContentSequence} == {"HAS ACQ CONTEXT"}
    return {
        item.ConceptNameCodeSequence[0].CodeMeaning: _stated(item) for item in image.ContentSequence
    }


def _stated(item: Dataset) -> object:
    match item.ValueType:
        case "CODE":
            return item.ConceptCodeSequence[0].CodeValue
        case "NUM":
            return float(item.MeasuredValueSequence[0].NumericValue)
    return item.TextValue


def test_the_image_library_says_what_the_film_states(tmp_path: Path) -> None:
    film = sources.source()
    film.ImagerPixelSpacing = [0.2, 0.1]
    assert library(made(sources.context_of(film, tmp_path))) == {
        "Modality": "CR",
        "Pixel Data Rows": 300,
        "Pixel Data Columns": 400,
        "Patient Orientation Row": "L",
        "Patient Orientation Column": "F",
        "Horizontal Pixel Spacing": 0.1,
        "Vertical Pixel Spacing": 0.2,
    }
    film = sources.source(orientation=())
    film.Modality = "odd"
    assert library(made(sources.context_of(film, tmp_path))) == {
        "Pixel Data Rows": 300,
        "Pixel Data Columns": 400,
    }
