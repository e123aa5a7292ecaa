"""What was kept and is gone or damaged: what serves instead, and which results are made again."""

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.errors import InputError
from dicom_node.results import registry
from dicom_node.routing.router import OTHER_PIXELS
from dicom_node.work.worker import Turn
from storage.jobs import Decision
from storage.objects import LocalObjectStore
from storage.states import JobState
from tests.results import sources
from tests.storage.samples import film, from_clinic, new_job
from tests.work.bench import Bench, Distorting, Faulty


def test_a_kept_film_that_was_damaged_is_not_analysed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    damaged = bytearray(bench.objects.read(bench.job.object))
    damaged[-9] ^= 1
    local = LocalObjectStore(tmp_path / "objects")  # which does not look at what it hands out
    bench.objects = local  # type: ignore[assignment]  # any store will do
    local.keep(bench.job.object.name, damaged)
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.error) == (
        JobState.FAILED,
        "the kept file is gone or damaged: send the film again",
    )


def test_a_film_that_was_sent_again_in_other_bytes_serves_where_the_first_is_gone(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    again = sources.source()
    again.StudyDescription = "Thorax"
    data = sources.write(again, tmp_path / "again.dcm").read_bytes()
    kept = bench.objects.keep("received/again.dcm", data)
    number = bench.store.receive(replace(film(), object=kept)).number
    bench.store.route(number, Decision(text="received again", job_key="k1"), None)
    bench.objects.remove(bench.job.object)
    bench.turn()
    assert bench.job.state is JobState.PRODUCED


def test_a_film_that_is_decided_about_again_does_not_serve_yet(tmp_path: Path) -> None:
    """It may turn out to have other pixels, as it did the first time."""
    bench = Bench(tmp_path)
    other = sources.source()
    other.PixelData = bytes(len(other.PixelData))
    data = sources.write(other, tmp_path / "other.dcm").read_bytes()
    sent = replace(film(), object=bench.objects.keep("received/other.dcm", data))
    said = Decision(text=OTHER_PIXELS, job_key="k1")
    bench.store.route(bench.store.receive(sent).number, said, None)
    bench.store.receive(sent)
    bench.objects.remove(bench.job.object)
    bench.turn()
    assert bench.job.state is JobState.FAILED


def lose(bench: Bench, *kinds: str) -> None:
    """The kept files of these results are gone, at both destinations before they were sent."""
    for made in bench.store.results("k1"):
        if made.kind in kinds:
            bench.objects.remove(made.object)
    lost = [made.sop_instance_uid for made in bench.store.results("k1") if made.kind in kinds]
    bench.store.retry("k1", bench.now, lost)


def test_a_result_whose_file_is_gone_is_made_again_and_the_others_are_what_they_were(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    picture, report = bench.store.results("k1")
    bench.engine = Distorting("counterfactual", 0.5)  # another machine would give other pixels
    lose(bench, "structured_report")
    assert bench.turn() is Turn.DONE
    again = bench.store.results("k1")
    assert again[0] == picture
    assert replace(again[1], object=report.object) == report
    assert bench.kept("structured_report").SOPInstanceUID == report.sop_instance_uid
    assert bench.job.state is JobState.PRODUCED


def test_a_result_is_made_again_bit_by_bit_by_the_same_program_on_the_same_day(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    made = bench.store.results("k1")
    lose(bench, "secondary_capture", "structured_report")
    bench.turn()
    assert bench.store.results("k1") == made


def test_nothing_is_made_again_that_was_not_made_before(tmp_path: Path) -> None:
    """The site asks for more since: those who have the first results would get half of the rest."""
    bench = Bench(tmp_path)
    bench.turn()
    lose(bench, "structured_report")
    bench.overrides = {"archive": ("structured_report", "segmentation_map")}
    bench.turn()
    kinds = [made.kind for made in bench.store.results("k1")]
    assert kinds == ["secondary_capture", "structured_report"]


def test_a_kind_that_is_promised_later_is_made_and_what_there_was_stays_as_it_is(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    made = bench.store.results("k1")
    for parcel in bench.store.claim_deliveries("pacs", "s", bench.now, 60, 9):
        bench.store.delivered(parcel, bench.now, "")
    clinic = {"clinic": ("structured_report", "segmentation_map")}
    number = bench.store.receive(from_clinic()).number
    anew = replace(new_job(), promised=clinic, created_at=bench.now)
    bench.store.route(number, Decision(text="received again", job_key="k1"), anew)
    bench.turn()
    assert bench.job.state is JobState.PRODUCED
    assert bench.kinds_at("clinic") == ["structured_report", "segmentation_map"]
    assert bench.kinds_at("pacs") == ["secondary_capture", "structured_report"]
    assert bench.store.results("k1")[:2] == made
    assert bench.store.claim_deliveries("pacs", "s", bench.now, 60, 9) == []


def test_a_result_that_would_have_another_uid_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    made = bench.store.results("k1")
    lose(bench, "structured_report")
    monkeypatch.setattr("dicom_node.uids.result_uid", lambda *_, **__: "2.25.7")
    bench.turn()
    assert (bench.job.state, bench.store.results("k1")) == (JobState.FAILED, made)
    assert "another version of this program" in bench.job.error


def test_whole_results_of_another_version_are_no_hindrance_to_what_is_promised_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    made = bench.store.results("k1")
    number = bench.store.receive(from_clinic()).number
    clinic = replace(new_job(), promised={"clinic": ("segmentation_map",)})
    bench.store.route(number, Decision(text="received again", job_key="k1"), clinic)
    monkeypatch.setattr("dicom_node.uids.result_uid", lambda *_, **__: "2.25.7")
    bench.turn()
    assert (bench.job.state, bench.job.error) == (JobState.PRODUCED, "")
    assert bench.store.results("k1")[:2] == made
    assert bench.kinds_at("clinic") == ["segmentation_map"]


def test_a_result_that_could_not_be_built_is_said_and_built_once_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    with monkeypatch.context() as broken:
        broken.setitem(registry._KINDS, "structured_report", registry._Kind(build=lambda _: [][0]))
        bench.turn()
    (picture,) = bench.store.results("k1")
    assert bench.job.state is JobState.PRODUCED
    assert bench.job.error == "left out, see the log: structured_report"
    bench.store.retry("k1", bench.now)
    bench.turn()
    assert [made.kind for made in bench.store.results("k1")] == [picture.kind, "structured_report"]
    assert bench.store.results("k1")[0] == picture
    assert bench.job.error == ""


def test_a_note_whose_file_is_gone_is_made_again(tmp_path: Path) -> None:
    telling: dict[str, tuple[str, ...]] = {"archive": ("not_analysed",)}
    bench = Bench(tmp_path, reader=Faulty(InputError("no image")), overrides=telling)
    bench.turn()
    (note,) = bench.store.results("k1")
    lose(bench, "not_analysed")
    bench.turn()
    (again,) = bench.store.results("k1")
    assert (bench.job.state, again.sop_instance_uid) == (JobState.REJECTED, note.sop_instance_uid)
    assert bench.kept("not_analysed").SOPInstanceUID == note.sop_instance_uid


def test_a_film_with_results_gets_no_note_when_it_is_refused_later(tmp_path: Path) -> None:
    telling: dict[str, tuple[str, ...]] = {"archive": ("structured_report", "not_analysed")}
    bench = Bench(tmp_path, overrides=telling)
    bench.turn()
    made = bench.store.results("k1")
    lose(bench, "structured_report")
    bench.reader = Faulty(InputError("no image"))
    bench.turn()
    assert (bench.job.state, bench.store.results("k1")) == (JobState.REJECTED, made)
