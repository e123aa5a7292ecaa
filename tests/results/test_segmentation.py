from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from dicom_node.results import codes, provenance, registry
from dicom_node.results.provenance import ResultContext
from pipeline.types import Status
from tests.results import sources
from tests.results.tools import read_back

R0, R1, C0, C1 = sources.BOX


def stored_pixels(ds: Dataset) -> np.ndarray:
    """[rows, columns, segments] of the source's one frame, as highdicom relates them."""
    made = highdicom.seg.Segmentation.from_dataset(ds, copy=False)
    return np.asarray(made.get_pixels_by_source_instance([sources.source().SOPInstanceUID])[0])


def test_regions_are_a_binary_segment_each_at_their_stored_pixels(context: ResultContext) -> None:
    ds = read_back(registry.build("segmentation_regions", context))
    assert (ds.SOPClassUID, ds.Modality) == (SegmentationStorage, "SEG")
    assert (ds.SegmentationType, ds.Rows, ds.Columns) == ("BINARY", 300, 400)
    expected = np.zeros((sources.ROWS, sources.COLUMNS), np.uint8)
    expected[R0:R1, C0:C1] = 1
    assert np.array_equal(stored_pixels(ds)[..., 0], expected)


def test_a_segment_has_the_name_that_the_report_tracks_it_by(context: ResultContext) -> None:
    (segment,) = registry.build("segmentation_regions", context).SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Region 1", "AUTOMATIC")
    assert segment.TrackingUID == provenance.tracking_uid(context, "region-1")
    report = registry.build("structured_report", context)
    assert segment.TrackingUID in report.to_json()
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.REGION.value
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert sources.DIGEST in algorithm.AlgorithmParameters


def test_the_map_is_a_fraction_of_the_fixed_scale(context: ResultContext) -> None:
    ds = read_back(registry.build("segmentation_map", context))
    assert (ds.SegmentationType, ds.MaximumFractionalValue) == ("FRACTIONAL", 255)
    assert "not a probability" in ds.SegmentSequence[0].SegmentDescription
    fraction = stored_pixels(ds)[..., 0]
    top = context.attribution.scale_max
    value = float(context.attribution.attribution_map[75, 300]) / top
    assert fraction[75, 300] == pytest.approx(value, abs=1 / 255)
    assert fraction[10, 10] == 0


@pytest.mark.parametrize("kind", ["segmentation_map", "segmentation_regions"])
def test_it_names_its_source_and_takes_over_its_orientation(
    context: ResultContext, kind: str
) -> None:
    ds = read_back(registry.build(kind, context))
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.3"
    assert list(ds.PatientOrientation) == ["L", "F"]
    assert "FrameOfReferenceUID" not in ds
    assert (ds.SyntheticData, ds.BurnedInAnnotation) == ("YES", "NO")


def test_a_segmentation_of_a_located_film_lies_in_its_frame_of_reference(tmp_path: Path) -> None:
    context = sources.context_of(sources.located(), tmp_path)
    ds = read_back(registry.build("segmentation_regions", context))
    assert ds.FrameOfReferenceUID == "1.2.3.4.9"
    (shared,) = ds.SharedFunctionalGroupsSequence
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [0.2, 0.2]


@pytest.mark.parametrize("kind", ["segmentation_map", "segmentation_regions"])
def test_a_withheld_result_has_no_segmentation(context: ResultContext, kind: str) -> None:
    withheld = sources.with_status(context, Status.WITHHELD, "odd")
    assert kind not in registry.kinds_for(withheld)


@pytest.mark.parametrize("kind", ["segmentation_map", "segmentation_regions"])
def test_pixels_that_are_not_square_are_not_drawn_square(tmp_path: Path, kind: str) -> None:
    film = sources.source()
    film.ImagerPixelSpacing = [0.2, 0.1]
    ds = read_back(registry.build(kind, sources.context_of(film, tmp_path)))
    assert list(ds.PixelAspectRatio) == [2, 1]
