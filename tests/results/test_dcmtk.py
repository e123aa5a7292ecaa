"""DCMTK, which nobody here wrote, reads the documents and applies the presentation state."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from dicom_node.results import registry
from dicom_node.results.provenance import ResultContext
from pipeline.types import Status
from tests.results import sources, tools

pytestmark = pytest.mark.peer

DOCUMENTS = ("structured_report", "key_object_selection", "not_analysed")


def written(kind: str, context: ResultContext, folder: Path) -> Path:
    path = folder / f"{kind}.dcm"
    path.write_bytes(registry.encode(registry.build(kind, context)))
    return path


def film(**attributes: object) -> Dataset:
    """On Indian time: dcmpschk 3.6.7 takes a time offset of +0000 for no DT."""
    source = sources.source()
    source.TimezoneOffsetFromUTC = "+0530"
    for keyword, value in attributes.items():
        setattr(source, keyword, value)
    return source


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_it_prints_a_document_and_makes_html_of_it(kind: str, tmp_path: Path) -> None:
    given = sources.context_for(kind, tmp_path)
    path = written(kind, given, tmp_path)
    assert "CONTAINER" in tools.dsrdump(path)
    page = tools.dcmtk("dsr2html", path).stdout
    assert "<html" in page.lower()
    assert "Phantom" in page


@pytest.mark.parametrize("monochrome", [1, 2])
def test_it_finds_no_fault_in_a_presentation_state(tmp_path: Path, monochrome: int) -> None:
    source = film(PhotometricInterpretation=f"MONOCHROME{monochrome}")
    state = written("presentation_state", sources.context_of(source, tmp_path), tmp_path)
    done = tools.dcmtk("dcmpschk", state)
    assert not [line for line in done.stderr.splitlines() if line.startswith("E:")]


@pytest.mark.parametrize("monochrome", [1, 2])
def test_it_applies_the_presentation_state_and_the_outline_is_at_the_region(
    tmp_path: Path, monochrome: int
) -> None:
    source = sources.source(monochrome=monochrome)
    context = sources.context_of(source, tmp_path)
    state = written("presentation_state", context, tmp_path)
    shown, overlay = tmp_path / "film.pgm", tmp_path / "ovl_0101.pgm"
    # With -v it writes each active overlay to a file of that name, where it runs.
    said = tools.dcmtk("dcmp2pgm", "-v", "-p", state, tmp_path / "source.dcm", shown, at=tmp_path)
    assert "250\\50, 325\\50, 325\\100, 250\\100, 250\\50" in said.stdout + said.stderr
    grey = np.asarray(Image.open(shown)).astype(int)
    # 3600 and 800 of 4096 through the film's own window are 224 and 50 of 255.
    assert grey[75, 300] == pytest.approx(224, abs=2)
    assert grey[10, 10] == pytest.approx(50, abs=2)
    outline = np.asarray(Image.open(overlay)) > 0
    rows, columns = np.nonzero(outline.any(1))[0], np.nonzero(outline.any(0))[0]
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == sources.BOX
    assert not outline[60:90, 260:315].any()  # a line, not a disc


def test_a_withheld_result_has_no_outline_to_apply(context: ResultContext) -> None:
    withheld = sources.with_status(context, Status.WITHHELD, "odd")
    assert "presentation_state" not in registry.kinds_for(withheld)
