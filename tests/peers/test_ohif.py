"""OHIF in a real browser shows the picture, and each region of the report on the film itself."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicom_node import radiograph
from dicom_node.admin import sample
from dicom_node.results import geometry, registry
from dicom_node.results.provenance import ResultContext
from pipeline import digest
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.types import Mode
from tests.peers import ohif, orthanc, tools

pytestmark = [pytest.mark.peer, pytest.mark.timeout(400)]

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PATIENCE_MS = 60_000
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

    def place(self, context: ResultContext, points: np.ndarray) -> np.ndarray:
        """[n, 2] (x, y) on the screen of (column, row) of the film, which fits the canvas."""
        header = context.header
        scale = min(self.width / header.columns, self.height / header.rows)
        left = self.left + (self.width - scale * header.columns) / 2
        top = self.top + (self.height - scale * header.rows) / 2
        return np.asarray(points * scale + (left, top))

    def marked(self) -> np.ndarray:
        """Pixels in the viewer's annotation green."""
        red, green, blue = np.moveaxis(self.pixels.astype(int), -1, 0)
        marked: np.ndarray = (green > 150) & (green - red > 80) & (green - blue > 80)
        return marked


class Viewer:
    """A page with the study, and its first-run dialogs dismissed."""

    def __init__(self, page: Any, url: str, study: str) -> None:
        self._page = page
        page.set_default_timeout(_PATIENCE_MS)
        page.goto(f"{url}/viewer?StudyInstanceUIDs={study}")
        page.locator("svg.svg-layer").first.wait_for(state="attached")
        page.get_by_text("Skip all").click()

    def open(self, description: str) -> None:
        """The series of that description is in the viewport."""
        self._page.locator('[data-cy^="study-browser-thumbnail"]', has_text=description).dblclick()
        self._page.locator("svg.svg-layer").first.wait_for(state="attached")

    def await_measurements(self) -> None:
        """The report's numbers are drawn; an offer to go on measuring is declined."""
        self._page.locator("svg.svg-layer text", has_text="Area:").first.wait_for()
        decline = self._page.get_by_role("button", name="No", exact=True)
        if decline.count():
            decline.click()

    def screen(self, name: str) -> Screen:
        """What is seen once it no longer changes; kept as `name` where VALD_SCREENSHOTS says."""
        shot = self._settled()
        if folder := os.environ.get("VALD_SCREENSHOTS"):
            (Path(folder) / f"{name}.png").write_bytes(shot)
        box = self._page.locator("svg.svg-layer").first.bounding_box()
        assert box is not None
        with Image.open(BytesIO(shot)) as image:
            pixels = np.asarray(image.convert("RGB"))
        return Screen(
            pixels=pixels, left=box["x"], top=box["y"], width=box["width"], height=box["height"]
        )

    def _settled(self) -> bytes:
        before, shot = b"", self._page.screenshot()
        while shot != before:
            self._page.wait_for_timeout(1500)
            before, shot = shot, self._page.screenshot()
        return bytes(shot)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, of no patient."""
    path = tmp_path_factory.mktemp("film") / "film.dcm"
    sample.write(path, "embedded", 0, datetime(2026, 3, 1, tzinfo=UTC))
    return path


@pytest.fixture(scope="module")
def analysed(film: Path) -> ResultContext:
    """The film, analysed by the embedded model."""
    decoded = radiograph.read(film)
    engine = LocalEngine(digest.folder_of("embedded"), "cpu")
    request = Request(film=decoded.radiograph, mode=Mode.CALIBRATED, seed=0)
    return ResultContext(
        header=decoded.header,
        radiograph=decoded.radiograph,
        attribution=engine.explain([request])[0],
        analysis_key="d" * 64,
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


@pytest.fixture(scope="module")
def viewer(
    film: Path, analysed: ResultContext, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Viewer]:
    """OHIF with the film, its picture and its report."""
    sync_api = pytest.importorskip("playwright.sync_api")
    ohif.dist()
    if not PLUGIN.is_file():
        pytest.skip("Orthanc's DICOMweb plug-in is not installed")
    chromium = tools.find("chromium")
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc.running(folder, plugins=(PLUGIN,)) as pacs, ohif.served(pacs) as url:
        pacs.post(film.read_bytes())
        for kind in ("secondary_capture", "structured_report"):
            pacs.post(registry.encode(registry.build(kind, analysed)))
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=[*_BROWSER])
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            yield Viewer(page, url, str(analysed.header.dataset.StudyInstanceUID))
            browser.close()


def test_the_reader_s_own_viewer_shows_picture_and_report(
    viewer: Viewer, analysed: ResultContext
) -> None:
    regions = analysed.attribution.regions
    assert regions, "the demo's film has an opacity"
    film = viewer.screen("ohif-film")
    assert not film.marked().any()

    viewer.open("VALD attribution")
    picture = viewer.screen("ohif-picture").pixels.astype(int)
    amber = (picture[..., 0] > 200) & (picture[..., 2] < 120) & (picture[..., 1] > 150)
    assert amber.sum() > 200  # the words that must be seen

    viewer.open("VALD measurements")
    viewer.await_measurements()
    report = viewer.screen("ohif-report")
    marked = report.marked()
    points = geometry.outline(analysed.header, regions[0])
    near = [
        marked[
            int(y) - _NEAR_PX : int(y) + _NEAR_PX + 1, int(x) - _NEAR_PX : int(x) + _NEAR_PX + 1
        ].any()
        for x, y in report.place(analysed, points)
    ]
    assert np.mean(near) > 0.9
    middle = report.place(analysed, points.mean(0)).astype(int)
    film_grey = film.pixels[middle[1], middle[0]].astype(int)
    assert np.abs(report.pixels[middle[1], middle[0]] - film_grey).max() < 8  # the film itself
