from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.results import inspection, provenance, registry
from dicom_node.results.inspection import Inspector
from dicom_node.results.provenance import ResultContext
from tests.results import sources
from tests.results.tools import read_back

KIND = "presentation_state"


def made(source: Dataset, folder: Path) -> Dataset:
    return read_back(registry.build(KIND, sources.context_of(source, folder)))


def test_the_outline_lies_on_the_film_in_its_stored_pixels(context: ResultContext) -> None:
    ds = read_back(registry.build(KIND, context))
    _, regions = ds.GraphicAnnotationSequence
    assert regions.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.3"
    (graphic,) = regions.GraphicObjectSequence
    assert (graphic.GraphicType, graphic.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
    # Columns 250 to 325, rows 50 to 100; column first.
    assert graphic.GraphicData == [250, 50, 325, 50, 325, 100, 250, 100, 250, 50]
    assert graphic.TrackingUID == provenance.tracking_uid(context, "region-1")


def test_words_and_outlines_are_layers_of_their_own(context: ResultContext) -> None:
    ds = read_back(registry.build(KIND, context))
    assert [layer.GraphicLayer for layer in ds.GraphicLayerSequence] == [
        "VALD_REGIONS",
        "VALD_WORDS",
    ]
    words, regions = ds.GraphicAnnotationSequence
    assert (words.GraphicLayer, regions.GraphicLayer) == ("VALD_WORDS", "VALD_REGIONS")
    assert "not for diagnosis" in words.TextObjectSequence[0].UnformattedTextValue
    assert ds[0x6000, 0x1001].value == "VALD_REGIONS"


def test_the_overlay_is_the_region_s_outermost_pixels(context: ResultContext) -> None:
    ds = read_back(registry.build(KIND, context))
    bits = np.unpackbits(np.frombuffer(ds[0x6000, 0x3000].value, np.uint8), bitorder="little")
    lines = bits[: sources.ROWS * sources.COLUMNS].reshape(sources.ROWS, sources.COLUMNS)
    expected = np.zeros_like(lines)
    expected[50:100, 250:325] = 1
    expected[51:99, 251:324] = 0
    assert np.array_equal(lines, expected)


@pytest.mark.parametrize(("monochrome", "shape"), [(1, "INVERSE"), (2, "IDENTITY")])
def test_the_film_keeps_its_polarity_and_window(
    tmp_path: Path, monochrome: int, shape: str
) -> None:
    ds = made(sources.source(monochrome=monochrome), tmp_path)
    assert ds.PresentationLUTShape == shape
    (voi,) = ds.SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth) == (2048, 4096)


def test_the_film_keeps_its_tone_curve_and_rescale(tmp_path: Path) -> None:
    source, table = sources.source(), Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 12])
    table.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    source.VOILUTSequence = [table]
    source.RescaleSlope, source.RescaleIntercept = 2, -5
    ds = made(source, tmp_path)
    (voi,) = ds.SoftcopyVOILUTSequence
    assert voi.VOILUTSequence[0].LUTData == table.LUTData
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (2, -5, "US")


@pytest.mark.parametrize("window", [("", ""), ("9", "0")])
def test_an_invalid_window_is_left_out(tmp_path: Path, window: tuple[str, str]) -> None:
    source = sources.source()
    source.WindowCenter, source.WindowWidth = window
    assert "SoftcopyVOILUTSequence" not in made(source, tmp_path)


@pytest.mark.parametrize(
    ("keyword", "stated", "expected"),
    [
        ("PixelSpacing", [0.2, 0.1], ("PresentationPixelSpacing", [0.2, 0.1])),
        ("ImagerPixelSpacing", [0.2, 0.1], ("PresentationPixelAspectRatio", [2, 1])),
        ("ImagerPixelSpacing", [0.15, 0.2], ("PresentationPixelAspectRatio", [3, 4])),
        ("PixelAspectRatio", [2, 1], ("PresentationPixelAspectRatio", [2, 1])),
        ("PixelSpacing", [0, 0], ("PresentationPixelAspectRatio", [1, 1])),
    ],
)
def test_the_whole_film_is_displayed_in_its_own_proportion(
    tmp_path: Path, keyword: str, stated: list[float], expected: tuple[str, list[float]]
) -> None:
    source = sources.source()
    setattr(source, keyword, stated)
    (area,) = made(source, tmp_path).DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaBottomRightHandCorner) == [400, 300]
    assert list(area[expected[0]].value) == expected[1]


def test_a_film_without_regions_has_words_only(context: ResultContext) -> None:
    none = replace(context, attribution=replace(context.attribution, regions=()))
    ds = read_back(registry.build(KIND, none))
    (words,) = ds.GraphicAnnotationSequence
    assert "GraphicObjectSequence" not in words
    assert (0x6000, 0x3000) not in ds


def with_shutter(shape: str | list[str], folder: Path, **values: object) -> Dataset:
    source = sources.source()
    source.ShutterShape = shape
    for keyword, value in values.items():
        setattr(source, keyword, value)
    return made(source, folder)


_EDGES = {
    "ShutterLeftVerticalEdge": 21,
    "ShutterRightVerticalEdge": 380,
    "ShutterUpperHorizontalEdge": 11,
    "ShutterLowerHorizontalEdge": 290,
}


def test_the_film_s_own_shutter_stays(tmp_path: Path) -> None:
    polygon = [1, 1, 1, 400, 300, 200]
    ds = with_shutter(
        ["RECTANGULAR", "POLYGONAL"], tmp_path, **_EDGES, VerticesOfThePolygonalShutter=polygon
    )
    assert list(ds.ShutterShape) == ["RECTANGULAR", "POLYGONAL"]
    assert {keyword: ds[keyword].value for keyword in _EDGES} == _EDGES
    assert list(ds.VerticesOfThePolygonalShutter) == polygon
    assert ds.ShutterPresentationValue == 0


@pytest.mark.parametrize(
    ("shape", "edges"),
    [
        ("RECTANGULAR", {**_EDGES, "ShutterLeftVerticalEdge": None}),
        ("RECTANGULAR", {**_EDGES, "ShutterRightVerticalEdge": 22}),
        ("OVAL", _EDGES),
    ],
    ids=["an edge short", "hardly anything left", "no such shape"],
)
def test_a_shutter_that_is_a_mistake_does_not_stay(
    tmp_path: Path, shape: str, edges: dict[str, int | None]
) -> None:
    ds = with_shutter(shape, tmp_path, **edges)
    assert not any("Shutter" in element.keyword for element in ds)


def test_the_film_s_shutter_goes_along(tmp_path: Path) -> None:
    source = sources.source()
    source.ShutterShape = ["RECTANGULAR", "CIRCULAR"]
    source.ShutterLeftVerticalEdge, source.ShutterRightVerticalEdge = "11", "390"
    source.ShutterUpperHorizontalEdge, source.ShutterLowerHorizontalEdge = "6", "295"
    source.CenterOfCircularShutter, source.RadiusOfCircularShutter = ["150", "200"], "240"
    ds = made(source, tmp_path)
    if program := inspection.installed():
        film = tmp_path / "source.dcm"
        assert Inspector(program).faults(ds, registry.encode(ds), film) == ()
    assert list(ds.ShutterShape) == ["RECTANGULAR", "CIRCULAR"]
    assert (ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge) == (11, 390)
    assert (ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge) == (6, 295)
    assert (list(ds.CenterOfCircularShutter), ds.RadiusOfCircularShutter) == ([150, 200], 240)
    assert ds.ShutterPresentationValue == 0


@pytest.mark.parametrize(
    ("stated", "shown"), [(["3", "2"], [3, 2]), (["1", "1"], [1, 1]), (["0", "0"], [1, 1])]
)
def test_the_pixel_s_sides_are_as_the_film_was_read(
    tmp_path: Path, stated: list[str], shown: list[int]
) -> None:
    source = sources.source()
    source.PixelAspectRatio = stated
    (area,) = made(source, tmp_path).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == shown
