from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, config

from dicom_node.errors import EncodingError
from dicom_node.results import conformity, registry
from dicom_node.results.provenance import ResultContext
from tests.results import sources


@pytest.fixture(params=registry.KINDS)
def good(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return registry.build(request.param, sources.context_for(request.param, tmp_path))


def test_what_is_built_has_no_fault(good: Dataset) -> None:
    assert conformity.check(good) == ()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "Modality", "SyntheticData"])
def test_a_type_1_attribute_without_value_is_a_fault(good: Dataset, keyword: str) -> None:
    good[keyword].value = ""
    assert f"{keyword} (Type 1) has no value" in conformity.check(good)
    with pytest.raises(EncodingError, match=keyword):
        registry.encode_checked(good)


def test_an_absent_type_2_attribute_is_a_fault(good: Dataset) -> None:
    del good.StudyID
    assert conformity.check(good) == ("StudyID (Type 2) is absent",)


def test_an_invalid_value_is_a_fault_at_any_depth_and_is_not_quoted(good: Dataset) -> None:
    bad = DataElement("ContributionDateTime", "DT", "secret", validation_mode=config.IGNORE)
    good.ContributingEquipmentSequence[0]["ContributionDateTime"] = bad
    (fault,) = conformity.check(good)
    assert fault == "ContributingEquipmentSequence > ContributionDateTime: not a valid DT"


def test_an_unknown_sop_class_is_a_fault() -> None:
    assert len(conformity.check(Dataset())) == 1


def test_pixels_of_another_size_are_a_fault(context: ResultContext) -> None:
    ds = registry.build("secondary_capture", context)
    ds.Rows += 1
    assert "PixelData has" in conformity.check(ds)[0]


def test_an_open_outline_is_a_fault(context: ResultContext) -> None:
    ds = registry.build("structured_report", context)
    group = ds.ContentSequence[-3].ContentSequence[0]
    (outline,) = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
    outline.GraphicData = [*list(outline.GraphicData)[:-1], 0.0]
    assert conformity.check(ds) == ("SCOORD POLYLINE is not closed",)


def test_a_frame_that_lacks_pixels_is_a_fault(tmp_path: Path) -> None:
    kind = "parametric_map"
    ds = registry.build(kind, sources.context_for(kind, tmp_path))
    ds.FloatPixelData = ds.FloatPixelData[:-4]
    assert conformity.check(ds) == ("FloatPixelData has 479996 bytes, not 480000",)


def test_an_unknown_kind_is_not_built(context: ResultContext) -> None:
    with pytest.raises(KeyError):
        registry.build("holiday_picture", context)
