"""What a worker makes of a film that can be analysed, for whom, and which jobs are its own."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from structlog.testing import capture_logs

from dicom_node.config import SeriesLabels
from dicom_node.work import model
from dicom_node.work.worker import Turn
from pipeline.errors import FilmError
from pipeline.testing import BrightnessEngine
from storage.jobs import Decision
from storage.states import DeliveryState, JobState
from tests.results import sources
from tests.storage.samples import NOON, after, film, new_job
from tests.work.bench import Bench, Distorting, Faulty, FaultyEngine, OtherEngine


def test_where_nothing_waits_the_worker_is_idle(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    assert bench.turn() is Turn.IDLE


def test_a_film_is_produced_with_each_result_due_at_each_destination(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.attempts, bench.job.lease) == (JobState.PRODUCED, 1, None)
    results = {result.kind: result for result in bench.store.results("k1")}
    assert results.keys() == {"secondary_capture", "structured_report"}
    due = {(d.sop_instance_uid, d.destination, d.state) for d in bench.store.deliveries("k1")}
    assert due == {
        (result.sop_instance_uid, destination, DeliveryState.DUE)
        for result in results.values()
        for destination in ("pacs", "archive")
    }


def test_what_is_kept_is_what_the_result_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    for result in bench.store.results("k1"):
        digest = result.object.digest[:16]
        assert result.object.name == f"results/k1/k1/{result.kind}-{digest}.dcm"
        ds = pydicom.dcmread(io.BytesIO(bench.objects.read(result.object)))
        assert ds.SOPInstanceUID == result.sop_instance_uid
        assert ds.SOPClassUID == result.sop_class_uid
        assert ds.SeriesInstanceUID == result.series_instance_uid
        assert ds.PatientID == "PID-7"


def test_the_same_job_made_twice_has_the_same_uids(tmp_path: Path) -> None:
    made: list[list[str]] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        bench = Bench(tmp_path / name, now=after(len(made) * 100))
        bench.turn()
        made.append([result.sop_instance_uid for result in bench.store.results("k1")])
    assert made[0] == made[1]


def test_a_destination_gets_what_it_asks_for_instead_of_the_rule_s(tmp_path: Path) -> None:
    bench = Bench(tmp_path, overrides={"archive": ("structured_report", "segmentation_map")})
    bench.turn()
    assert bench.kinds_at("pacs") == ["secondary_capture", "structured_report"]
    assert bench.kinds_at("archive") == ["structured_report", "segmentation_map"]


@pytest.mark.parametrize(
    ("compressions", "syntax"),
    [
        ({"pacs": "jpeg2000", "archive": "jpeg2000"}, JPEG2000Lossless),
        ({"pacs": "rle", "archive": "rle"}, RLELossless),
        ({"pacs": "rle", "archive": "jpeg2000"}, ExplicitVRLittleEndian),
        ({"pacs": "rle"}, ExplicitVRLittleEndian),
    ],
)
def test_a_picture_is_compressed_where_all_who_get_it_take_that(
    tmp_path: Path, compressions: dict[str, str], syntax: str
) -> None:
    bench = Bench(tmp_path, compressions=compressions)
    bench.turn()
    assert bench.kept("secondary_capture").file_meta.TransferSyntaxUID == syntax
    assert bench.kept("structured_report").file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_results_have_the_site_s_series(tmp_path: Path) -> None:
    labels = SeriesLabels(numbers={"secondary_capture": 77}, description="AI {object} {version}")
    bench = Bench(tmp_path, labels=labels)
    bench.turn()
    picture = bench.kept("secondary_capture")
    version = bench.kept("structured_report").SoftwareVersions[1].split()[-1]
    assert picture.SeriesNumber == 77
    assert picture.SeriesDescription == f"AI attribution {version}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attribution_map", np.nan),
        ("attribution_map", np.inf),
        ("attribution_map", -0.5),
        ("counterfactual", np.nan),
        ("difference", np.inf),
    ],
)
def test_a_map_that_is_no_number_fails_the_job(tmp_path: Path, name: str, value: float) -> None:
    bench = Bench(tmp_path, engine=Distorting(name, value))
    bench.turn()
    (job,) = bench.store.jobs(9, JobState.FAILED)
    assert job.error.startswith("The model gave")
    assert bench.store.results("k1") == []


def test_a_result_that_a_validator_cannot_judge_is_due_and_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, validator=tmp_path / "gone")
    with capture_logs() as logs:
        bench.turn()
    assert {d.state for d in bench.store.deliveries("k1")} == {DeliveryState.DUE}
    (said,) = [entry for entry in logs if entry["event"] == "job produced"]
    assert (said["results"], said["not_inspected"]) == (2, 2)
    kinds = {entry["kind"] for entry in logs if entry["event"] == "result not inspected"}
    assert kinds == {"secondary_capture", "structured_report"}


def test_a_result_that_a_validator_blames_is_quarantined_and_the_others_are_not(
    tmp_path: Path,
) -> None:
    validator = tmp_path / "dciodvfy"
    validator.write_text(
        "#!/bin/sh\ngrep -q 126000 $1 && echo 'Error - bad <Ada> Element=<X>' >&2\n"
    )
    validator.chmod(0o755)
    bench = Bench(tmp_path, validator=validator)
    assert bench.turn() is Turn.DONE
    held = {d.state: d.reason for d in bench.store.deliveries("k1")}
    assert held == {"DUE": "", "QUARANTINED": "Error - bad <> Element=<X>"}
    due = bench.store.claim_deliveries("pacs", "me", after(999), 60, limit=9)
    assert [parcel.result.kind for parcel in due] == ["secondary_capture"]


def test_an_error_that_the_source_has_too_holds_no_result_back(tmp_path: Path) -> None:
    validator = tmp_path / "dciodvfy"
    validator.write_text("#!/bin/sh\necho 'Error - all is bad'\n")
    validator.chmod(0o755)
    bench = Bench(tmp_path, validator=validator)
    bench.turn()
    assert {d.state for d in bench.store.deliveries("k1")} == {DeliveryState.DUE}


def test_a_film_analysed_by_another_model_has_a_report_that_supersedes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.turn()
    first = bench.kept("structured_report")
    another = replace(bench.job_to_be("k2", created_s=5), model_digest="e" * 64)
    other_patient = replace(bench.job_to_be("k3", created_s=6), identity_digest="another")
    bench.add(another)
    bench.add(other_patient)
    bench.add(replace(bench.job_to_be("k4", created_s=2), seed=9))
    bench.turn()
    assert "PredecessorDocumentsSequence" not in bench.kept("structured_report", "k4")
    first_engine, bench.engine = bench.engine, OtherEngine()
    bench.turn()
    bench.engine = first_engine
    (study,) = bench.kept("structured_report", "k2").PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == first.StudyInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    superseded = {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    same_model = bench.kept("structured_report", "k4")
    assert superseded == {first.SOPInstanceUID, same_model.SOPInstanceUID}
    bench.turn()
    assert "PredecessorDocumentsSequence" not in bench.kept("structured_report", "k3")


def test_who_asks_for_it_is_told_why_a_film_was_not_analysed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, overrides={"archive": ("basic", "not_analysed")})
    bench.engine = FaultyEngine(FilmError("It shows no chest"))
    assert bench.turn() is Turn.DONE
    assert bench.job.state is JobState.REJECTED
    assert (bench.kinds_at("archive"), bench.kinds_at("pacs")) == (["not_analysed"], [])
    note = bench.kept("not_analysed")
    assert "Not analysed, because It shows no chest." in note.to_json()
    assert note.PatientID == "PID-7"


def test_who_asks_for_it_is_told_of_a_film_that_a_guard_refused(tmp_path: Path) -> None:
    hip = sources.source()
    hip.BodyPartExamined = "HIP"
    rule = new_job().rule
    kept_out = Bench(tmp_path, source=hip, overrides={"pacs": ("not_analysed",)}, waived={rule: ()})
    kept_out.reader = Faulty(AssertionError("it needs no decoding"))
    assert kept_out.turn() is Turn.DONE
    assert kept_out.job.state is JobState.REJECTED
    assert "guard body_part" in kept_out.job.error
    assert "guard body_part" in kept_out.kept("not_analysed").to_json()
    let_pass: tuple[dict[str, tuple[str, ...]], ...] = ({rule: ("body_part",)}, {})
    for waived in let_pass:  # by the rule; by nobody, where it has gone
        let_in = Bench(tmp_path, source=hip, waived=waived)
        let_in.turn()
        assert let_in.job.state is JobState.PRODUCED


def test_a_film_that_is_sent_again_may_be_refused_for_another_reason_and_then_produced(
    tmp_path: Path,
) -> None:
    """Each note has a UID of its own, and one for the same reason is made once."""
    bench = Bench(tmp_path, overrides={"pacs": ("not_analysed",)})
    for reason in ("It is cut short", "It is cut short", "It shows no chest"):
        bench.engine = FaultyEngine(FilmError(reason))
        assert bench.turn() is Turn.DONE
        assert bench.job.state is JobState.REJECTED
        again = bench.store.receive(film("1.2.3"))
        routed = Decision(text="analysed anew", job_key="k1")
        bench.store.route(again.number, routed, bench.job_to_be("k1", created_s=9))
    bench.engine = BrightnessEngine()
    bench.turn()
    assert bench.job.state is JobState.PRODUCED
    assert bench.kinds_at("pacs") == ["not_analysed", "not_analysed"]
    assert len(bench.kinds_at("archive")) == 2  # picture and report


def test_a_note_that_cannot_be_kept_lets_the_job_wait_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, overrides={"pacs": ("not_analysed",)}, capacity_bytes=10)
    bench.engine = FaultyEngine(FilmError("It shows no chest"))
    assert bench.turn() is Turn.RELEASED
    assert bench.job.state is JobState.RECEIVED


def test_jobs_are_taken_oldest_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.add(replace(new_job("k0", created_s=-1, uid="1.2.4"), object=bench.job.object))
    bench.turn()
    assert [bench.store.job(key).state for key in ("k0", "k1")] == ["PRODUCED", "RECEIVED"]


def test_a_job_of_another_model_is_not_run_and_its_film_is_routed_afresh(tmp_path: Path) -> None:
    bench = Bench(tmp_path, engine=OtherEngine())
    model.announce(bench.store, OtherEngine.model_digest, NOON)
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.store.results("k1")) == (JobState.FAILED, [])
    assert bench.job.error == "the model is now eeeeeeeeeeee; the film is analysed by that"
    assert [film.sop_instance_uid for film in bench.store.unrouted(9)] == ["1.2.3"]


def test_a_worker_whose_model_films_are_not_routed_for_leaves_jobs_to_others(
    tmp_path: Path,
) -> None:
    """The model was replaced in place, and this worker alone started again since."""
    bench = Bench(tmp_path, engine=OtherEngine())
    for announced in (None, bench.job.model_digest):
        if announced:
            model.announce(bench.store, announced, NOON)
        assert bench.turn() is Turn.RELEASED
        assert (bench.job.state, bench.job.attempts) == (JobState.RECEIVED, 0)
    assert bench.store.unrouted(9) == []
