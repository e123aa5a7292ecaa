"""What goes into a report comes out of it, as highdicom reads it."""

from dataclasses import replace

import numpy as np
import pytest
from highdicom import sr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.sr.coding import Code

from dicom_node.results import codes, registry
from dicom_node.results.provenance import ResultContext
from pipeline.types import Region, Status
from tests.results import sources
from tests.results.test_structured_report import film_group
from tests.results.tools import read_back

# Multiples of 1/8 are exact in FL; a map's numbers have six digits in the report.
_rows = st.integers(0, 8 * sources.ROWS).map(lambda n: n / 8)
_columns = st.integers(0, 8 * sources.COLUMNS).map(lambda n: n / 8)
_values = st.integers(0, 999_999).map(lambda n: n / 1_000_000)
_AREA = Code("42798000", "SCT", "Area")
_MAXIMUM, _MEAN = "56851009", "373098007"  # SCT


@st.composite
def regions(draw: st.DrawFn) -> Region:
    points = draw(st.lists(st.tuples(_rows, _columns), min_size=3, max_size=30))
    return Region(
        outline=(*points, points[0]),
        area_px=draw(st.integers(1, 10**6)),
        peak=draw(_values),
        mean=draw(_values),
    )


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> ResultContext:
    return sources.context_of(sources.source(), tmp_path_factory.mktemp("film"))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    found=st.lists(regions(), max_size=4),
    score=_values,
    status=st.sampled_from([Status.VALID, Status.LOW_CONFIDENCE]),
)
def test_regions_numbers_and_codes_come_out_as_they_went_in(
    analysed: ResultContext, found: list[Region], score: float, status: Status
) -> None:
    made = replace(analysed.attribution, regions=tuple(found), score=score, status=status)
    ds = read_back(registry.build("structured_report", replace(analysed, attribution=made)))
    content = sr.ComprehensiveSR.from_dataset(ds).content
    assert isinstance(content, sr.MeasurementReport)
    groups = content.get_planar_roi_measurement_groups()
    assert [outline_of(group) for group in groups] == [
        [(col, row) for row, col in region.outline] for region in found
    ]
    assert [numbers_of(group) for group in groups] == [
        (region.area_px, region.peak, region.mean) for region in found
    ]
    film = film_group(ds)
    (value,) = film.get_measurements(name=codes.SCORE)
    (said,) = film.get_qualitative_evaluations(name=codes.STATUS)
    assert float(value.value) == score
    assert said.value == codes.STATUS_VALUES[status.value]


def outline_of(group: sr.PlanarROIMeasurementsAndQualitativeEvaluations) -> list[tuple[float, ...]]:
    assert isinstance(group.roi, sr.ImageRegion)
    return [tuple(map(float, point)) for point in np.asarray(group.roi.value)]


def numbers_of(
    group: sr.PlanarROIMeasurementsAndQualitativeEvaluations,
) -> tuple[float, float, float]:
    """Area, peak and mean by their codes."""
    (area,) = group.get_measurements(name=_AREA)
    (peak,) = group.get_measurements(name=codes.PEAK)
    (mean,) = group.get_measurements(name=codes.MEAN)
    assert peak.derivation is not None
    assert mean.derivation is not None
    assert (peak.derivation.value, mean.derivation.value) == (_MAXIMUM, _MEAN)
    return float(area.value), float(peak.value), float(mean.value)
