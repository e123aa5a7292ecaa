from pathlib import Path

import highdicom
import numpy as np
import pytest

from dicom_node.results import registry
from dicom_node.results.provenance import ResultContext
from tests.results import sources
from tests.results.tools import read_back

KIND = "parametric_map"


def test_its_pixels_are_the_map_s_own_numbers_on_the_stored_grid(tmp_path: Path) -> None:
    source = sources.located()
    source.PatientOrientation = ["R", "F"]  # so the stored film is the upright one mirrored
    context = sources.context_of(source, tmp_path)
    ds = read_back(registry.build(KIND, context))
    made = highdicom.pm.ParametricMap.from_dataset(ds)
    values = made.get_frames(apply_real_world_transform=True)[0]
    assert np.allclose(values, context.attribution.attribution_map[:, ::-1])


def test_it_says_what_the_numbers_are_and_where_they_lie(tmp_path: Path) -> None:
    ds = read_back(registry.build(KIND, sources.context_of(sources.located(), tmp_path)))
    assert ds.FrameOfReferenceUID == "1.2.3.4.9"
    (shared,) = ds.SharedFunctionalGroupsSequence
    (mapping,) = shared.RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)


def test_a_plain_film_gets_none(context: ResultContext) -> None:
    assert KIND not in registry.kinds_for(context)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("FrameOfReferenceUID", ""),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImagePositionPatient", None),
        ("PixelSpacing", [0, 0]),
        ("SliceThickness", 0),
    ],
)
def test_geometry_that_is_not_whole_is_none(tmp_path: Path, keyword: str, value: object) -> None:
    source = sources.located()
    setattr(source, keyword, value)
    assert KIND not in registry.kinds_for(sources.context_of(source, tmp_path))
