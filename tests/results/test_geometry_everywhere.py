"""A point of the film is at the same anatomy in every object: any size, turn, polarity, spacing."""

import tempfile
from pathlib import Path

import highdicom
import numpy as np
from highdicom import sr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from dicom_node.results import picture, registry
from dicom_node.results.provenance import ResultContext
from tests.results import sources
from tests.results.test_geometry import TURNS
from tests.results.tools import read_back

_BRIGHT, _DARK = 3600, 800


@st.composite
def films(draw: st.DrawFn) -> tuple[Dataset, tuple[int, int, int, int]]:
    """A located film with one bright box, and the box's stored rows and columns."""
    rows, columns = draw(st.integers(130, 260)), draw(st.integers(130, 260))
    height, width = draw(st.integers(24, 60)), draw(st.integers(24, 60))
    top = draw(st.integers(0, rows - height))
    left = draw(st.integers(0, columns - width))
    ds = sources.located()
    ds.Rows, ds.Columns = rows, columns
    ds.PatientOrientation = list(draw(st.sampled_from(list(TURNS))))
    ds.PixelSpacing = [draw(st.sampled_from([0.1, 0.15, 0.3])) for _ in range(2)]
    grey = np.full((rows, columns), _DARK, np.uint16)
    if draw(st.booleans()):  # padded: a frame that is no picture
        ds.PixelPaddingValue = 0
        grey[:, :3] = grey[:, -3:] = 0
    grey[top : top + height, left : left + width] = _BRIGHT
    if draw(st.booleans()):
        ds.PhotometricInterpretation = "MONOCHROME1"
        padding = grey == 0
        grey = 4095 - grey
        grey[padding] = 0
    ds.add_new("PixelData", "OW", grey.tobytes())
    return ds, (top, top + height, left, left + width)


def marked_box(marked: np.ndarray) -> tuple[int, int, int, int]:
    """First row, row after the last, first column, column after the last of what is marked."""
    rows, columns = np.nonzero(marked.any(1))[0], np.nonzero(marked.any(0))[0]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def polygon_box(points: np.ndarray) -> tuple[int, ...]:
    """The same of (column, row) points."""
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return int(top), int(bottom), int(left), int(right)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(films())
def test_a_region_is_at_the_same_anatomy_in_every_object(
    film: tuple[Dataset, tuple[int, int, int, int]],
) -> None:
    source, box = film
    with tempfile.TemporaryDirectory() as folder:
        context = sources.context_of(source, Path(folder))
    made = {kind: read_back(registry.build(kind, context)) for kind in registry.kinds_for(context)}
    assert in_the_report(made["structured_report"]) == box
    state = made["presentation_state"]
    assert in_the_graphic(state) == box
    assert in_the_overlay(state) == box
    assert marked_box(frame(made["segmentation_regions"]) > 0) == box
    assert marked_box(frame(made["segmentation_map"]) > 0) == box
    values = highdicom.pm.ParametricMap.from_dataset(made["parametric_map"]).get_frames()[0]
    assert marked_box(values > 0) == box
    demand_colour_at(box, made["overlay_capture"].pixel_array, context)


def in_the_report(report: Dataset) -> tuple[int, ...]:
    content = sr.ComprehensiveSR.from_dataset(report).content
    assert isinstance(content, sr.MeasurementReport)
    (group,) = content.get_planar_roi_measurement_groups()
    assert isinstance(group.roi, sr.ImageRegion)
    return polygon_box(np.asarray(group.roi.value))


def in_the_graphic(state: Dataset) -> tuple[int, ...]:
    (graphic,) = state.GraphicAnnotationSequence[1].GraphicObjectSequence
    return polygon_box(np.array(graphic.GraphicData).reshape(-1, 2))


def in_the_overlay(state: Dataset) -> tuple[int, ...]:
    rows, columns = state[0x6000, 0x0010].value, state[0x6000, 0x0011].value
    bits = np.unpackbits(np.frombuffer(state[0x6000, 0x3000].value, np.uint8), bitorder="little")
    return marked_box(bits[: rows * columns].reshape(rows, columns))


def frame(segmentation: Dataset) -> np.ndarray:
    made = highdicom.seg.Segmentation.from_dataset(segmentation)
    uid = segmentation.SourceImageSequence[0].ReferencedSOPInstanceUID
    return np.asarray(made.get_pixels_by_source_instance([uid])[0, ..., 0])


def demand_colour_at(
    box: tuple[int, int, int, int], pixels: np.ndarray, context: ResultContext
) -> None:
    """Upright, the picture is coloured in the region's middle."""
    top, bottom, left, right = box
    row, col = context.header.orientation.point_to_upright((top + bottom) / 2, (left + right) / 2)
    down, across = picture.layout(context.radiograph).scale
    assert np.ptp(pixels[int(row * down), int(col * across)].astype(int)) > 50
