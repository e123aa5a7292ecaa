"""Counterpart and overlay as pictures of their own."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_node.results import compression, picture, registry
from dicom_node.results.provenance import ResultContext
from pipeline.types import Status
from tests.results import sources, tools
from tests.results.tools import read_back

KINDS = ("counterpart_capture", "overlay_capture")


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_lies_over_a_banner_that_says_what_it_is(
    context: ResultContext, kind: str
) -> None:
    ds = read_back(registry.build(kind, context))
    draw = {"counterpart_capture": picture.counterpart, "overlay_capture": picture.overlay}[kind]
    shown = draw(context.radiograph, context.attribution)
    pixels = ds.pixel_array
    assert np.array_equal(pixels[: len(shown)], shown)
    banner = pixels[len(shown) :].astype(int)
    assert len(banner) > 60
    assert (banner[..., 0] - banner[..., 2] > 100).any()  # amber words
    assert (ds.BurnedInAnnotation, ds.SyntheticData) == ("YES", "YES")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("stated", "shown"),
    [(("L", "F"), ["L", "F"]), (("H", "L"), ["L", "F"]), (("A", "F"), ["A", "F"]), ((), None)],
)
def test_a_picture_of_the_film_alone_says_how_it_lies(
    tmp_path: Path, kind: str, stated: tuple[str, ...], shown: list[str] | None
) -> None:
    """Turned upright where the film is frontal; a lateral is left as it lies."""
    film = sources.source(orientation=stated)
    ds = read_back(registry.build(kind, sources.context_of(film, tmp_path)))
    assert ds.PatientOrientation == (shown or "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_the_film_alone_has_its_calibrated_spacing(tmp_path: Path, kind: str) -> None:
    """300 rows of 0.2 mm by 400 columns of 0.1 mm are drawn 1024 rows high."""
    film = sources.source()
    film.PixelSpacing = [0.2, 0.1]
    ds = read_back(registry.build(kind, sources.context_of(film, tmp_path)))
    assert ds.PixelSpacing == pytest.approx([60 / 1024, 60 / 1024], rel=2e-3)
    film.PixelSpacing, film.ImagerPixelSpacing = None, [0.2, 0.1]
    detector = read_back(registry.build(kind, sources.context_of(film, tmp_path)))
    assert "PixelSpacing" not in detector  # what is measured there is not the patient's size


@pytest.mark.parametrize("kind", KINDS)
def test_a_withheld_result_has_no_picture(context: ResultContext, kind: str) -> None:
    withheld = sources.with_status(context, Status.WITHHELD, "odd")
    assert kind not in registry.kinds_for(withheld)


def test_each_kind_has_a_series_of_its_own_as_the_site_labels_it(context: ResultContext) -> None:
    made = [registry.build(kind, context) for kind in registry.kinds_for(context)]
    assert len({ds.SeriesInstanceUID for ds in made}) == len(made)
    assert len({ds.SeriesNumber for ds in made}) == len(made)
    assert {ds.StudyInstanceUID for ds in made} == {"1.2.3.4.1"}


@pytest.mark.parametrize("name", ["rle", "jpeg2000"])
def test_a_compressed_picture_has_the_same_pixels_in_fewer_bytes(
    context: ResultContext, tmp_path: Path, name: str
) -> None:
    ds = registry.build("secondary_capture", context)
    plain, small = registry.encode(ds), registry.encode(ds, name)
    assert len(small) < len(plain) / 5
    path = tmp_path / "small.dcm"
    path.write_bytes(small)
    made = pydicom.dcmread(path)
    assert made.file_meta.TransferSyntaxUID == compression.SYNTAXES[name]
    assert made.SOPInstanceUID == ds.SOPInstanceUID
    shown = picture.panels(context.radiograph, context.attribution)
    assert np.array_equal(made.pixel_array, shown)
    assert ds.PixelData == shown.tobytes()  # what was encoded is not changed
    assert tools.dciodvfy_errors(path) == set()


@pytest.mark.peer
def test_dcmtk_reads_the_compressed_picture(context: ResultContext, tmp_path: Path) -> None:
    ds = registry.build("secondary_capture", context)
    small, plain = tmp_path / "small.dcm", tmp_path / "plain.dcm"
    small.write_bytes(registry.encode(ds, "rle"))
    tools.dcmtk("dcmdrle", small, plain)
    shown = picture.panels(context.radiograph, context.attribution)
    assert np.array_equal(pydicom.dcmread(plain).pixel_array, shown)
