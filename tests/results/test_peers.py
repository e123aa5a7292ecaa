"""Other people's validators read what is made, of synthetic and of real films."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.results import not_analysed, registry
from dicom_node.results.not_analysed import Refusal
from dicom_node.results.provenance import ResultContext
from pipeline.types import Status
from tests.results import sources, tools

FILMS = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"


def write(kind: str, context: ResultContext, folder: Path) -> Path:
    path = folder / f"{kind}.dcm"
    path.write_bytes(registry.encode(registry.build(kind, context)))
    return path


def write_note(context: ResultContext, folder: Path) -> Path:
    refusal = Refusal(
        header=context.header,
        model=context.model,
        analysis_key=context.analysis_key,
        created_at=context.created_at,
    )
    path = folder / "refused.dcm"
    path.write_bytes(registry.encode(not_analysed.refused(refusal, "the film is no chest")))
    return path


@pytest.mark.peer
@pytest.mark.parametrize("source", [sources.source, sources.located])
@pytest.mark.parametrize("status", list(Status))
def test_dciodvfy_finds_no_error(
    source: Callable[[], Dataset], status: Status, tmp_path: Path
) -> None:
    given = sources.with_status(sources.context_of(source(), tmp_path), status, "seeds disagree")
    for kind in registry.kinds_for(given):
        assert tools.dciodvfy_errors(write(kind, given, tmp_path)) == set(), kind


@pytest.mark.peer
@pytest.mark.parametrize("count", [0, 2])
def test_dciodvfy_finds_no_error_whatever_the_number_of_regions(count: int, tmp_path: Path) -> None:
    given = sources.context_of(sources.located(), tmp_path)
    regions = given.attribution.regions * count
    several = replace(given, attribution=replace(given.attribution, regions=regions))
    for kind in registry.kinds_for(several):
        assert tools.dciodvfy_errors(write(kind, several, tmp_path)) == set(), kind


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_the_note_on_a_refused_film(
    context: ResultContext, tmp_path: Path
) -> None:
    assert tools.dciodvfy_errors(write_note(context, tmp_path)) == set()


@pytest.mark.peer
def test_dcmtk_reads_the_report(context: ResultContext, tmp_path: Path) -> None:
    printed = tools.dsrdump(write("structured_report", context, tmp_path))
    assert "(POLYLINE,250/50,325/50,325/100,250/100,250/50)" in printed
    assert "(VALD010,99VALD" in printed


@pytest.mark.peer
def test_dcmtk_reads_a_report_without_regions(context: ResultContext, tmp_path: Path) -> None:
    none = replace(context, attribution=replace(context.attribution, regions=()))
    assert "No region differs" in tools.dsrdump(write("structured_report", none, tmp_path))


@pytest.mark.data
@pytest.mark.skipif(not FILMS.is_dir(), reason="no real films beside the checkout")
@pytest.mark.parametrize("path", sorted(FILMS.glob("*.dcm")), ids=lambda path: path.stem)
@pytest.mark.parametrize("status", list(Status))
def test_results_of_a_real_film_have_no_error_that_it_has_not(
    path: Path, status: Status, tmp_path: Path
) -> None:
    # Every one of these films is read: none is passed over.
    context = sources.with_status(sources.context(path), status, "seeds disagree")
    known = tools.dciodvfy_errors(path)
    for kind in registry.kinds_for(context):
        assert tools.dciodvfy_errors(write(kind, context, tmp_path)) - known == set()
    assert tools.dciodvfy_errors(write_note(context, tmp_path)) - known == set()
    if tools.DSRDUMP.is_file():
        tools.dsrdump(tmp_path / "structured_report.dcm")
