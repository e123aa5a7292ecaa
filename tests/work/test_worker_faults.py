"""How a job leaves the worker where something is at fault: by whose fault it was."""

import io
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from dicom_node import logs
from dicom_node.config import SeriesLabels
from dicom_node.errors import DecoderError, EncodingError, InputError
from dicom_node.results import registry
from dicom_node.work.worker import Turn
from pipeline.errors import FilmError, ModelError, ShortageError
from pipeline.testing import BrightnessEngine
from storage.errors import ObjectMissingError, ObjectsUnavailableError
from storage.jobs import ObjectRef
from storage.objects import LocalObjectStore
from storage.states import JobState
from tests.results import sources
from tests.storage.filtered import behind_filter
from tests.storage.samples import after, new_job
from tests.work.bench import (
    AwayStore,
    Bench,
    FalteringStore,
    Faulty,
    FaultyEngine,
    HeardStore,
    Meanwhile,
    OtherEngine,
    Strict,
)

_LONG_S = 10.0
_PATIENT = ("Phantom", "Ada", "PID-7")
"""Of the film that is analysed here, none of which may be told."""


@pytest.mark.parametrize(
    "made_with",
    [
        {"reader": Faulty(InputError("Decoding took longer than 120 s."))},
        {"engine": FaultyEngine(FilmError("Decoding took longer than 120 s."))},
    ],
)
def test_the_images_fault_is_a_rejection_that_says_why(
    tmp_path: Path, made_with: dict[str, object]
) -> None:
    bench = Bench(tmp_path, **made_with)  # type: ignore[arg-type]  # of the fields' types
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.error) == (
        JobState.REJECTED,
        "Decoding took longer than 120 s.",
    )
    assert bench.store.results("k1") == []


@pytest.mark.parametrize(("part", "state"), [("CHEST", "PRODUCED"), ("", "REJECTED")])
def test_what_looks_like_no_chest_is_withheld_where_its_header_says_that_it_is_one(
    tmp_path: Path, part: str, state: str
) -> None:
    source = sources.source()
    source.BodyPartExamined = part
    source.pop("AnatomicRegionSequence", None)
    bench = Bench(tmp_path, engine=Strict(), source=source)
    assert bench.turn() is Turn.DONE
    assert bench.job.state == state
    made = {one.kind: bench.objects.read(one.object) for one in bench.store.results("k1")}
    assert bool(made) == (state == "PRODUCED")
    if made:
        assert b"WITHHELD" in made["structured_report"].upper()
        assert b"it is not a chest" in made["structured_report"]


@pytest.mark.parametrize(
    ("made_with", "why"),
    [
        ({"engine": FaultyEngine(ShortageError("cuda has no memory left"))}, "cuda has no memory"),
        ({"engine": FaultyEngine(MemoryError())}, "too little memory was free; free some, or "),
        (
            {"reader": Faulty(ChildProcessError("The decoder process was asked to stop."))},
            "The decoder process was asked to stop.",
        ),
        ({"reader": Faulty(OSError(24, "Too many open files"))}, "no file handle was free; raise"),
        ({"reader": Faulty(RuntimeError("can't start new thread"))}, "no thread was free; raise"),
        ({"reader": Faulty(OSError(5, "Input/output error", "a.dcm"))}, "Input/output error"),
        ({"capacity_bytes": 10}, "no space left for objects"),
    ],
    ids=[
        *("device full", "no memory", "decoder stopped", "no file handle", "no thread"),
        *("disk bad", "disk full"),
    ],
)
def test_the_moments_fault_lets_the_job_wait_again_and_says_what_it_was(
    tmp_path: Path, made_with: dict[str, object], why: str
) -> None:
    bench = Bench(tmp_path, **made_with)  # type: ignore[arg-type]  # of the fields' types
    assert bench.turn() is Turn.RELEASED
    assert (bench.job.state, bench.job.lease) == (JobState.RECEIVED, None)
    assert bench.job.error.startswith(f"to be tried again: {why}")
    assert bench.store.results("k1") == []


def test_a_lease_that_no_thread_can_renew_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bench = Bench(tmp_path)
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", start)
        assert bench.turn() is Turn.RELEASED
    assert (bench.job.state, bench.job.attempts) == (JobState.RECEIVED, 0)
    assert bench.turn() is Turn.DONE
    assert bench.job.state is JobState.PRODUCED


def test_a_result_that_the_machine_could_not_make_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    bench = Bench(tmp_path)
    with monkeypatch.context() as short:
        short.setattr(registry, "build", build)
        assert bench.turn() is Turn.RELEASED
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.error) == (JobState.PRODUCED, "")


def test_a_released_job_is_produced_on_the_next_turn(tmp_path: Path) -> None:
    bench = Bench(tmp_path, engine=FaultyEngine(ShortageError("cuda has no memory left")))
    bench.turn()
    bench.engine = BrightnessEngine()
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.attempts, bench.job.error) == (JobState.PRODUCED, 1, "")


def test_a_model_that_cannot_be_used_fails_the_job_and_says_why(tmp_path: Path) -> None:
    bench = Bench(tmp_path, engine=FaultyEngine(ModelError("the model has no gate")))
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.error) == (JobState.FAILED, "the model has no gate")


@pytest.mark.parametrize("fault", [EncodingError("not conformant"), ObjectMissingError("gone")])
def test_our_own_named_faults_fail_the_job_in_their_words(tmp_path: Path, fault: Exception) -> None:
    bench = Bench(tmp_path, reader=Faulty(fault))
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.error) == (JobState.FAILED, str(fault))


def test_a_kept_file_that_is_gone_fails_the_job(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    gone = ObjectRef(name="received/gone.dcm", digest="0" * 64, size_bytes=1)
    bench.turn()
    bench.add(replace(new_job("k2", uid="1.2.4"), object=gone))
    assert bench.turn() is Turn.DONE
    assert bench.store.job("k2").state is JobState.FAILED
    assert "the kept file is gone" in bench.store.job("k2").error


def test_a_fault_nobody_foresaw_fails_the_job_without_quoting_the_patient(tmp_path: Path) -> None:
    bench = Bench(tmp_path, reader=Faulty(ValueError("invalid value 'Phantom^Ada' of PID-7")))
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.error) == (JobState.FAILED, "ValueError: see the log")


def test_after_a_fault_nobody_foresaw_the_next_job_is_produced(tmp_path: Path) -> None:
    bench = Bench(tmp_path, engine=FaultyEngine(ZeroDivisionError("division by zero")))
    bench.add(replace(new_job("k2", created_s=1, uid="1.2.4"), object=bench.job.object))
    bench.turn()
    bench.engine = BrightnessEngine()
    bench.turn()
    assert [bench.store.job(key).state for key in ("k1", "k2")] == ["FAILED", "PRODUCED"]


@pytest.mark.parametrize(
    ("made_with", "state"),
    [
        ({}, "PRODUCED"),
        ({"engine": FaultyEngine(FilmError("no chest"))}, "REJECTED"),
        ({"engine": FaultyEngine(ShortageError("cuda has no memory left"))}, "RECEIVED"),
    ],
)
def test_what_is_logged_names_no_patient(
    tmp_path: Path, made_with: dict[str, object], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, **made_with)  # type: ignore[arg-type]  # of the fields' types
    said = logged(bench.turn, monkeypatch)
    assert bench.job.state == state
    assert "job started" in said
    assert not [name for name in _PATIENT if name in said]


def test_a_fault_nobody_foresaw_is_logged_without_quoting_the_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, reader=Faulty(ValueError("invalid value 'Phantom^Ada' of PID-7")))
    said = logged(bench.turn, monkeypatch)
    assert "job failed" in said
    assert not [name for name in _PATIENT if name in said]


def logged(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the node writes to standard error meanwhile, as configured in its processes."""
    stream = io.StringIO()
    before = structlog.get_config()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("DEBUG", "json")
    try:
        act()
    finally:
        structlog.configure(**before)
    return stream.getvalue()


@pytest.mark.parametrize(
    "ending",
    [
        None,
        InputError("no image"),
        OSError("no file handle"),
        ModelError("no model"),
        ValueError("nobody foresaw this"),
    ],
)
def test_a_worker_that_lost_its_lease_writes_nothing(
    tmp_path: Path, ending: Exception | None
) -> None:
    bench = Bench(tmp_path)
    if ending is None:
        bench.engine = Meanwhile(bench.lose_the_lease)
    else:
        bench.reader = Faulty(ending, first=bench.lose_the_lease)
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.error) == (JobState.RUNNING, "its worker was lost")
    assert bench.job.lease is not None
    assert (bench.job.lease.owner, bench.job.lease.token) == ("other", 2)
    assert bench.store.results("k1") == []
    assert bench.store.deliveries("k1") == []


@pytest.mark.parametrize("away", [0, 2], ids=["at once", "after the store was away"])
def test_a_heartbeat_moves_the_end_of_the_lease(tmp_path: Path, away: int) -> None:
    store = HeardStore(away)
    bench = Bench(tmp_path, store=store, lease_s=0.03)
    ends = []

    def later() -> None:
        store.kept.acquire(timeout=_LONG_S)
        bench.now = after(50)
        # The heartbeat under way may still carry the old time; the one after it cannot.
        assert all(store.kept.acquire(timeout=_LONG_S) for _ in range(2))
        lease = bench.job.lease
        ends.append(lease and lease.until)

    bench.engine = Meanwhile(later)
    bench.turn()
    assert ends == [after(50.03)]
    assert bench.job.state is JobState.PRODUCED


def test_the_heart_stops_with_the_job(tmp_path: Path) -> None:
    before = {*threading.enumerate()}  # some may be of tests before, and end meanwhile
    bench = Bench(tmp_path, reader=Faulty(InputError("no image")), lease_s=0.03)
    bench.turn()
    assert {*threading.enumerate()} <= before


def test_a_worker_that_is_told_to_stop_finishes_the_job_in_hand(tmp_path: Path) -> None:
    stop = threading.Event()
    bench = Bench(tmp_path, engine=Meanwhile(stop.set))
    bench.add(replace(new_job("k2", created_s=1, uid="1.2.4"), object=bench.job.object))
    bench.worker().run(stop)
    assert [bench.store.job(key).state for key in ("k1", "k2")] == ["PRODUCED", "RECEIVED"]


@pytest.mark.parametrize(
    ("made_with", "state"),
    [
        ({}, JobState.PRODUCED),
        ({"reader": Faulty(InputError("no image"))}, JobState.REJECTED),
        ({"reader": Faulty(ValueError("nobody foresaw this"))}, JobState.FAILED),
    ],
)
def test_a_database_that_is_away_at_the_end_costs_no_attempt(
    tmp_path: Path, made_with: dict[str, Any], state: JobState
) -> None:
    bench = Bench(tmp_path, store=AwayStore(), **made_with)
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.attempts) == (state, 1)


def test_a_database_that_is_away_as_earlier_reports_are_looked_for_costs_no_attempt(
    tmp_path: Path,
) -> None:
    store = FalteringStore()
    bench = Bench(tmp_path, store=store, engine=OtherEngine())
    bench.add(replace(bench.job_to_be("k0", created_s=-1), model_digest="e" * 64))
    assert bench.turn() is Turn.DONE
    store.falters_at, bench.engine = "k0", BrightnessEngine()
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, bench.job.attempts) == (JobState.PRODUCED, 1)
    assert "PredecessorDocumentsSequence" in bench.kept("structured_report")


def test_a_film_whose_decoder_is_killed_again_and_again_has_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, reader=Faulty(DecoderError("It was killed by SIGKILL.")))
    assert [bench.turn() for _ in range(3)] == [Turn.RELEASED, Turn.RELEASED, Turn.DONE]
    assert (bench.job.state, bench.job.attempts) == (JobState.FAILED, 3)
    assert bench.job.error == "It was killed by SIGKILL. So it was 3 times."


def test_a_moments_fault_is_given_up_a_day_after_it_first_came(tmp_path: Path) -> None:
    day_s = 86_400
    bench = Bench(tmp_path, reader=Faulty(OSError(24, "Too many open files")))
    worker, ends = bench.worker(), []
    for at_s in (3 * day_s, 4 * day_s - 1, 4 * day_s + 1):  # however long it had waited before
        bench.now = after(at_s)
        ends.append((worker.work_once(), bench.job.state))
    assert ends == [
        (Turn.RELEASED, JobState.RECEIVED),
        (Turn.RELEASED, JobState.RECEIVED),
        (Turn.DONE, JobState.FAILED),
    ]
    assert bench.job.error == (
        "given up after a day: no file handle was free; raise the limit of open files (ulimit -n) "
        "([Errno 24] Too many open files): retry once it is mended"
    )


def test_a_moments_fault_that_was_over_meanwhile_begins_another_day(tmp_path: Path) -> None:
    """Another worker brought the job to its end, and the operator had it tried again."""
    bench = Bench(tmp_path, reader=Faulty(OSError(24, "Too many open files")))
    worker = bench.worker()
    assert worker.work_once() is Turn.RELEASED
    bench.reader = Faulty(ObjectMissingError("gone"))
    assert bench.worker().work_once() is Turn.DONE
    bench.store.retry("k1", after(9))
    bench.now = after(2 * 86_400)
    assert worker.work_once() is Turn.RELEASED
    assert bench.job.state is JobState.RECEIVED


def test_the_days_that_the_volume_of_the_objects_is_gone_are_none_of_a_moments_fault(
    tmp_path: Path,
) -> None:
    troubles = [OSError(24, "Too many open files"), ObjectsUnavailableError("gone")]
    reader = Faulty(troubles[0])
    bench = Bench(tmp_path, reader=reader)
    worker = bench.worker()
    for days, reader.fault in enumerate((*troubles, troubles[0])):
        bench.now = after(days * 86_400)
        assert worker.work_once() is Turn.RELEASED
    bench.now = after(3 * 86_400 + 1)
    assert worker.work_once() is Turn.DONE
    assert bench.job.error.startswith("given up after a day: no file handle was free")


@pytest.mark.parametrize("at_s", [0, 5 * 86_400])
def test_while_the_volume_of_the_objects_is_gone_films_wait_and_no_attempt_is_spent(
    tmp_path: Path, at_s: float
) -> None:
    bench = Bench(tmp_path)
    root, away = tmp_path / "objects", tmp_path / "away"
    volume = LocalObjectStore(root)
    volume.keep(bench.job.object.name, bench.objects.read(bench.job.object))
    bench.objects = volume  # type: ignore[assignment]  # any store will do
    root.rename(away)
    worker = bench.worker()
    for seconds in (0, at_s):
        bench.now = after(seconds)
        assert worker.work_once() is Turn.RELEASED
        assert (bench.job.state, bench.job.attempts) == (JobState.RECEIVED, 0)
    away.rename(root)
    assert worker.work_once() is Turn.DONE
    assert (bench.job.state, bench.job.attempts) == (JobState.PRODUCED, 1)


def test_a_film_that_a_bucket_answers_wrongly_waits_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    filtered, _ = behind_filter(monkeypatch, bench.job.object.name)
    filtered.keep(bench.job.object.name, bench.objects.read(bench.job.object))
    bench.objects = filtered  # type: ignore[assignment]  # any store will do
    worker = bench.worker()
    assert worker.work_once() is Turn.RELEASED
    assert (bench.job.state, bench.job.attempts) == (JobState.RECEIVED, 0)
    assert bench.job.error.endswith("the service gave something else")
    bench.now = after(2 * 86_400)
    assert worker.work_once() is Turn.DONE
    assert bench.job.error.startswith("given up after a day: object ")


def test_a_late_worker_leaves_the_files_of_others_alone(tmp_path: Path) -> None:
    """Two workers that would make other bytes of one job, such as with another configuration."""
    bench = Bench(tmp_path)

    def another_is_first() -> None:
        bench.lose_the_lease()
        bench.store.reclaim(after(200), max_attempts=9)
        bench.engine, bench.labels = BrightnessEngine(), SeriesLabels(description="Site {object}")
        bench.turn()

    bench.engine = Meanwhile(another_is_first)
    assert bench.turn() is Turn.DONE
    assert bench.job.state is JobState.PRODUCED
    kept = [bench.objects.read(made.object) for made in bench.store.results("k1")]
    assert len(kept) == 2
