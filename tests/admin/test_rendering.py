"""`vald-node render`: every result can be looked at without a viewer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.results import registry
from tests.admin import commands
from tests.results import sources

R0, _, C0, _ = sources.BOX
LYING = ("segmentation_regions", "segmentation_map", "parametric_map")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every result of a film, and the film."""
    context = sources.context_of(sources.located(), tmp_path)
    for kind in registry.kinds_for(context):
        (tmp_path / f"{kind}.dcm").write_bytes(registry.encode(registry.build(kind, context)))
    return tmp_path


def shown(folder: Path, kind: str, *options: object) -> np.ndarray:
    done = commands.vald("render", folder / f"{kind}.dcm", "--out", folder / "out", *options)
    assert done.exit_code == 0, done.output
    with Image.open(folder / "out" / f"{kind}.png") as image:
        return np.asarray(image).astype(int)


def on_film(pixels: np.ndarray) -> np.ndarray:
    """Without the banner below the film."""
    assert len(pixels) > sources.ROWS and np.ptp(pixels[sources.ROWS :], axis=-1).max() > 150
    return pixels[: sources.ROWS]


@pytest.mark.parametrize("kind", LYING)
def test_a_map_is_coloured_over_the_film_where_it_is(folder: Path, kind: str) -> None:
    pixels = on_film(shown(folder, kind, "--film", folder / "source.dcm"))
    coloured = np.ptp(pixels, axis=-1) > 0
    rows, columns = np.nonzero(coloured.any(1))[0], np.nonzero(coloured.any(0))[0]
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == sources.BOX
    assert pixels[10, 10].tolist() == [50, 50, 50]  # 800 of 4096, the film's own grey


@pytest.mark.parametrize("kind", LYING)
def test_a_map_without_its_film_is_on_black(folder: Path, kind: str) -> None:
    pixels = on_film(shown(folder, kind))
    assert pixels[10, 10].tolist() == [0, 0, 0]
    assert np.ptp(pixels[75, 300]) > 0


@pytest.mark.parametrize("kind", ["segmentation_map", "parametric_map"])
def test_a_map_is_coloured_from_the_threshold_on_one_scale_for_all_films(
    tmp_path: Path, kind: str
) -> None:
    given = sources.context_of(sources.located(), tmp_path)
    faint = np.full((sources.ROWS, sources.COLUMNS), 0.09, np.float32)  # threshold 0.1, top 0.5
    faint[R0:, C0:] = 0.3
    made = replace(given.attribution, attribution_map=faint, regions=())
    ds = registry.build(kind, replace(given, attribution=made))
    (tmp_path / f"{kind}.dcm").write_bytes(registry.encode(ds))
    pixels = on_film(shown(tmp_path, kind))
    assert pixels[10, 10].tolist() == [0, 0, 0]
    # (0.3 - 0.1) / (0.5 - 0.1): half way between the second and the third colour, at opacity 0.6
    assert np.abs(pixels[75, 300] - 0.6 * np.array([226, 110, 92])).max() < 3


def test_outlines_are_drawn_over_the_film(folder: Path) -> None:
    pixels = on_film(shown(folder, "presentation_state", "--film", folder / "source.dcm"))
    colour = np.ptp(pixels, axis=-1)
    assert colour[R0 - 1 : R0 + 1, 270].max() > 50  # the upper edge
    assert colour[75, C0 - 1 : C0 + 1].max() > 50  # the left one
    assert colour[75, 300] == 0  # within
    assert pixels[290:, :150].max() > 150  # the words of the other layer, in the lower left corner


def test_a_capture_is_itself_and_a_film_too(folder: Path) -> None:
    assert shown(folder, "overlay_capture").shape[2] == 3
    film = shown(folder, "source")
    assert (film[10, 10, 0], film[75, 300, 0]) == (50, 224)


@pytest.mark.parametrize("kind", ["structured_report", "key_object_selection"])
def test_a_document_is_text_or_html(folder: Path, kind: str) -> None:
    out = folder / "out"
    assert commands.vald("render", folder / f"{kind}.dcm", "--out", out).exit_code == 0
    text = (out / f"{kind}.txt").read_text()
    assert "research use only" in text
    assert commands.vald("render", folder / f"{kind}.dcm", "--out", out, "--html").exit_code == 0
    page = (out / f"{kind}.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<ul>") == page.count("</ul>") > 0
    nested = page.count("<ul>") > 1
    assert nested == ("POLYLINE of 5 points" in page) == (kind == "structured_report")


def test_what_is_no_dicom_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.dcm"
    path.write_text("no image")
    done = commands.vald("render", path)
    assert done.exit_code == 1
    assert "notes.dcm" in str(done.exception)


@pytest.mark.parametrize("kind", [*LYING, "presentation_state"])
def test_a_result_is_not_laid_over_another_film(folder: Path, kind: str) -> None:
    other = sources.source()
    other.SOPInstanceUID = "1.2.3.4.33"
    film = sources.write(other, folder / "other.dcm")
    done = commands.vald("render", folder / f"{kind}.dcm", "--film", film, "--out", folder / "out")
    assert done.exit_code == 1
    assert "not of the film" in str(done.exception)
    assert not (folder / "out" / f"{kind}.png").exists()


def test_two_objects_of_one_name_do_not_overwrite_each_other(folder: Path) -> None:
    (folder / "again").mkdir()
    second = folder / "again" / "overlay_capture.dcm"
    second.write_bytes((folder / "overlay_capture.dcm").read_bytes())
    done = commands.vald("render", folder / "overlay_capture.dcm", second, "--out", folder / "out")
    assert done.exit_code == 1
    assert "overlay_capture" in str(done.exception)
    assert not (folder / "out").exists()
