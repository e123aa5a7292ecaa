"""OHIF in a real browser shows the picture, and each region of the report on the film itself."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dicom_node import radiograph
from dicom_node.admin import sample
from dicom_node.results import geometry, picture, registry, wording
from dicom_node.results.provenance import ResultContext
from pipeline import digest
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.types import Mode, Region
from tests.peers import ohif, orthanc, tools
from tests.results import sources

pytestmark = [pytest.mark.peer, pytest.mark.timeout(400)]

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PATIENCE_MS = 60_000
_REPORT_S = 30
_OPENINGS = 4
"""A report whose regions the viewer has not drawn is opened again: OHIF says which annotations are
a report's beside drawing it, and draws once more only when something else asks for it.
"""
_MADE = datetime(2026, 3, 1, tzinfo=UTC)
_BOXES = ((60, 140, 80, 200), (170, 230, 240, 380))
"""First row, row after the last, first column, column after the last."""
_GREY = 30
"""Channels that differ by no more are grey, also as the browser smooths them."""
_AWAY_PART = 0.05
"""Of a film's width: farther from a region nothing is coloured."""
_NEAR_PX = 3
"""A line of the viewer lies so near to where the report says it is."""
_BROWSER = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The viewer's picture, and where its canvas lies in it."""

    pixels: np.ndarray
    left: float
    top: float
    width: float
    height: float

    def place(self, points: np.ndarray, columns: int, rows: int) -> np.ndarray:
        """[n, 2] pixels (x, y) of points (column, row) of an image that is fitted to the canvas."""
        scale = min(self.width / columns, self.height / rows)
        left = self.left + (self.width - scale * columns) / 2
        top = self.top + (self.height - scale * rows) / 2
        return np.rint(points * scale + (left, top)).astype(int)

    def at(self, places: np.ndarray) -> np.ndarray:
        """[n, 3] RGB of those pixels."""
        seen: np.ndarray = self.pixels[places[:, 1], places[:, 0]].astype(int)
        return seen

    def marked(self) -> np.ndarray:
        """Pixels in the viewer's green, or in the yellow of the annotation that is chosen."""
        red, green, blue = np.moveaxis(self.pixels.astype(int), -1, 0)
        marked: np.ndarray = (green > 150) & (green - blue > 80) & (red - green < 40)
        return marked

    def marked_near(self, places: np.ndarray) -> np.ndarray:
        """[n] whether an annotation lies at each pixel."""
        near = ndimage.binary_dilation(self.marked(), np.ones([2 * _NEAR_PX + 1] * 2))
        found: np.ndarray = near[places[:, 1], places[:, 0]]
        return found


class Viewer:
    """A page with the study, and its first-run dialogs dismissed."""

    def __init__(self, page: Any, url: str, study: str, keep: Path | None) -> None:
        self._page, self._keep, self._shown = page, keep, b""
        page.set_default_timeout(_PATIENCE_MS)
        page.goto(f"{url}/viewer?StudyInstanceUIDs={study}")
        page.locator("svg.svg-layer").first.wait_for(state="attached")
        page.get_by_text("Skip all").click()

    def open(self, description: str) -> None:
        """The series of that description is in the viewport."""
        self._page.locator('[data-cy^="study-browser-thumbnail"]', has_text=description).dblclick()
        self._page.locator("svg.svg-layer").first.wait_for(state="attached")

    def measurements(self, description: str, count: int, other: str) -> list[str]:
        """The words at each of `count` regions of the report of that description, opened again by
        way of the `other` series where they do not come; an offer to go on measuring is declined.
        """
        words = self._page.locator("svg.svg-layer text", has_text="Area:")
        for _ in range(_OPENINGS):
            self.open(description)
            if self._come(words, count):
                break
            self.open(other)
        else:
            pytest.fail(f"OHIF drew no {count} regions in {_OPENINGS} openings of {description}")
        decline = self._page.get_by_role("button", name="No", exact=True)
        if decline.count():
            decline.click()
        return [str(said) for said in words.all_text_contents()]

    def _come(self, words: Any, count: int) -> bool:
        """Whether there are soon so many."""
        for _ in range(_REPORT_S):
            if words.count() >= count:
                return True
            self._page.wait_for_timeout(1000)
        return False

    def screen(self, name: str) -> Screen:
        """What is seen once it no longer changes, and is not what was seen last; kept as `name`
        where screens are kept.
        """
        self._settle()
        shot = self._page.screenshot()
        if self._keep:
            (self._keep / f"ohif-{name}.png").write_bytes(shot)
        box = self._page.locator("svg.svg-layer").first.bounding_box()
        assert box is not None
        with Image.open(BytesIO(shot)) as image:
            pixels = np.asarray(image.convert("RGB"))
        return Screen(
            pixels=pixels, left=box["x"], top=box["y"], width=box["width"], height=box["height"]
        )

    def _settle(self) -> None:
        """The viewport shows another image than before: a series that loads slowly is awaited."""
        viewport = self._page.locator("svg.svg-layer").first
        before, seen = b"", viewport.screenshot()
        while seen != before or seen == self._shown:
            self._page.wait_for_timeout(1500)
            before, seen = seen, viewport.screenshot()
        self._shown = bytes(seen)


def _demo(folder: Path) -> ResultContext:
    """The demo's film, of no patient, analysed by the embedded model."""
    path = folder / "film.dcm"
    sample.write(path, "embedded", 2, _MADE)
    decoded = radiograph.read(path)
    engine = LocalEngine(digest.folder_of("embedded"), "cpu")
    request = Request(film=decoded.radiograph, mode=Mode.CALIBRATED, seed=0)
    return ResultContext(
        header=decoded.header,
        radiograph=decoded.radiograph,
        attribution=engine.explain([request])[0],
        analysis_key="d" * 64,
        created_at=_MADE,
    )


def _two_boxes(folder: Path) -> ResultContext:
    """A dark film with two bright boxes, each a region."""
    ds = sources.source()
    ds.ImagerPixelSpacing = [0.2, 0.2]
    grey = np.full((sources.ROWS, sources.COLUMNS), 800, np.uint16)
    for top, bottom, left, right in _BOXES:
        grey[top:bottom, left:right] = 3600
    ds.PixelData = grey.tobytes()
    given = sources.context_of(ds, folder)
    regions = tuple(_region(*box) for box in _BOXES)
    return replace(given, attribution=replace(given.attribution, regions=regions))


def _region(top: int, bottom: int, left: int, right: int) -> Region:
    corners = ((top, left), (top, right), (bottom, right), (bottom, left), (top, left))
    area_px = (bottom - top) * (right - left)
    return Region(outline=corners, area_px=area_px, peak=0.375, mean=0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What Orthanc holds of a film, and the viewer that has it open."""

    context: ResultContext
    viewer: Viewer


@pytest.fixture(scope="module", params=[_demo, _two_boxes], ids=["demo", "boxes"])
def study(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Study]:
    """OHIF with a film, its picture and its report."""
    sync_api = pytest.importorskip("playwright.sync_api")
    ohif.dist()
    if not PLUGIN.is_file():
        pytest.skip("Orthanc's DICOMweb plug-in is not installed")
    chromium = tools.find("chromium")
    folder = tmp_path_factory.mktemp("film")
    context = request.param(folder)
    (film,) = folder.glob("*.dcm")
    with (
        orthanc.running(tmp_path_factory.mktemp("orthanc"), plugins=(PLUGIN,)) as pacs,
        ohif.served(pacs) as url,
        sync_api.sync_playwright() as playwright,
    ):
        pacs.post(film.read_bytes())
        for kind in ("secondary_capture", "structured_report"):
            pacs.post(registry.encode(registry.build(kind, context)))
        browser = playwright.chromium.launch(executable_path=chromium, args=[*_BROWSER])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        uid = str(context.header.dataset.StudyInstanceUID)
        viewer = Viewer(page, url, uid, _kept() if request.param is _demo else None)
        yield Study(context=context, viewer=viewer)
        browser.close()


def _kept() -> Path | None:
    """The folder that VALD_SCREENSHOTS names: docs/ has the demo's."""
    folder = os.environ.get("VALD_SCREENSHOTS")
    return Path(folder) if folder else None


def _grid(outline: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[n, 2] (column, row) of every fourth pixel within an outline, the middle its centre."""
    marked = geometry.inside(outline, rows, columns)
    return np.argwhere(marked)[::4, ::-1] + 0.5


def _along(outline: np.ndarray) -> np.ndarray:
    """[n, 2] points along a closed outline, corners and between."""
    steps = np.linspace(0, 1, 20, endpoint=False)[:, None, None]
    points: np.ndarray = (outline[:-1] + steps * np.diff(outline, axis=0)).reshape(-1, 2)
    return points


def _hue(colours: np.ndarray) -> np.ndarray:
    hue: np.ndarray = np.ptp(colours, axis=-1) > _GREY
    return hue


def _assert_coloured_at_regions_alone(screen: Screen, context: ResultContext) -> None:
    rows, columns = context.radiograph.pixels.shape
    layout = picture.layout(context.radiograph)

    def seen(points: np.ndarray) -> np.ndarray:
        drawn = [layout.point(picture.OVERLAY, row, col)[::-1] for col, row in points]
        return _hue(screen.at(screen.place(np.array(drawn), layout.width, layout.height)))

    anywhere = np.zeros((rows, columns), np.bool_)
    for region in context.attribution.regions:
        outline = np.array(region.outline, np.float32)[:, ::-1]
        assert seen(_grid(outline, rows, columns)).mean() > 0.9
        anywhere |= geometry.inside(outline, rows, columns)
    away = ndimage.distance_transform_edt(~anywhere) > _AWAY_PART * columns
    assert not seen(np.argwhere(away)[::97, ::-1] + 0.5).any()


def _assert_drawn(region: Region, report: Screen, film: Screen, context: ResultContext) -> None:
    header = context.header
    outline = geometry.outline(header, region)
    lines = report.place(_along(outline), header.columns, header.rows)
    assert report.marked_near(lines).mean() > 0.9
    within = report.place(_grid(outline, header.rows, header.columns), header.columns, header.rows)
    change = np.abs(report.at(within) - film.at(within)).max(-1)
    assert np.median(change) < 8  # the film itself, but for the words over it


def test_the_reader_s_own_viewer_shows_picture_and_every_region(study: Study) -> None:
    context, viewer = study.context, study.viewer
    regions = context.attribution.regions
    assert regions, "the film has an opacity"
    film = viewer.screen("film")
    assert not film.marked().any()

    viewer.open("VALD attribution")
    shown = viewer.screen("picture")
    red, green, blue = np.moveaxis(shown.pixels.astype(int), -1, 0)
    assert ((red > 200) & (green > 150) & (blue < 120)).sum() > 200  # the words that must be seen
    _assert_coloured_at_regions_alone(shown, context)

    said = viewer.measurements("VALD measurements", len(regions), other="VALD attribution")
    report = viewer.screen("report")
    for region in regions:
        _assert_drawn(region, report, film, context)
    assert context.header.spacing_mm
    areas = [wording.area_mm2(region, context.header.spacing_mm) for region in regions]
    stated = [float(area) for words in said for area in re.findall(r"Area: ([\d.]+) mm2", words)]
    assert sorted(stated) == pytest.approx(sorted(areas), abs=0.01)
