"""How a job leaves the worker: by produced results, or by the fault of whose it was."""

import faulthandler
import io
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import structlog
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from structlog.testing import capture_logs

from dicom_node import logs, radiograph
from dicom_node.config import SeriesLabels
from dicom_node.errors import DecoderError, EncodingError, InputError
from dicom_node.radiograph import Film
from dicom_node.results import registry
from dicom_node.results.inspection import Inspector
from dicom_node.routing.router import OTHER_PIXELS
from dicom_node.work import model
from dicom_node.work.making import FilmReader
from dicom_node.work.worker import Turn, Worker, WorkerSettings
from pipeline.engine.base import Engine, Request
from pipeline.errors import FilmError, ModelError, ShortageError, UnlikeTrainingError
from pipeline.testing import BrightnessEngine
from pipeline.types import Attribution, Status, Unlike
from storage.errors import ObjectMissingError, ObjectsUnavailableError, StoreUnavailableError
from storage.jobs import Decision, Job, NewJob, ObjectRef, Result
from storage.memory import MemoryJobStore
from storage.objects import LocalObjectStore, MemoryObjectStore
from storage.states import DeliveryState, JobState
from tests.results import sources
from tests.storage.filtered import behind_filter
from tests.storage.samples import NOON, after, film, from_clinic, new_job

_LONG_S = 10.0
_PATIENT = ("Phantom", "Ada", "PID-7")
"""Of the film that is analysed here, none of which may be told."""


class InProcess:
    """The reader without its child process."""

    def read(self, path: Path) -> Film:
        return radiograph.read(path)


@dataclass
class Faulty:
    """A reader whose every read ends so; `first` happens before."""

    fault: Exception
    first: Callable[[], object] = field(default=lambda: None)

    def read(self, path: Path) -> Film:  # noqa: ARG002 - whatever the file
        self.first()
        raise self.fault


class FaultyEngine(BrightnessEngine):
    """An engine that cannot."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self._fault = fault

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:  # noqa: ARG002
        raise self._fault


class Strict(BrightnessEngine):
    """An engine that takes every picture for something else than a chest."""

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        if requests[0].unlike is Unlike.REFUSE:
            raise UnlikeTrainingError("it is not a chest")
        return [
            replace(made, status=Status.WITHHELD, reasons=("it is not a chest",))
            for made in super().explain(requests)
        ]


class Distorting(BrightnessEngine):
    """An engine one of whose maps has one value that cannot be."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__()
        self._name, self._value = name, value

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        (made,) = super().explain(requests)
        getattr(made, self._name).flat[0] = self._value
        return [made]


class OtherEngine(BrightnessEngine):
    """An engine with another model."""

    model_digest = "e" * 64


class Meanwhile(BrightnessEngine):
    """An engine during whose work something else happens."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        self._happens()
        return super().explain(requests)


class HeardStore(MemoryJobStore):
    """A store that tells of each heartbeat that it has kept, after being away for some."""

    def __init__(self, away: int = 0) -> None:
        super().__init__()
        self.kept = threading.Semaphore(0)
        self._away = away

    def heartbeat(self, key: str, token: int, until: datetime) -> None:
        if self._away:
            self._away -= 1
            raise StoreUnavailableError("the database is locked")
        super().heartbeat(key, token, until)
        self.kept.release()


class AwayStore(MemoryJobStore):
    """A store that is away when a job is to end, so many times."""

    away: int = 3

    def produce(self, *args: Any, **kwargs: Any) -> None:
        self._be_away()
        super().produce(*args, **kwargs)

    def reject(self, *args: Any, **kwargs: Any) -> None:
        self._be_away()
        super().reject(*args, **kwargs)

    def fail(self, *args: Any, **kwargs: Any) -> None:
        self._be_away()
        super().fail(*args, **kwargs)

    def _be_away(self) -> None:
        self.away -= 1
        if self.away >= 0:
            raise StoreUnavailableError("the database is away")


class Watch:
    """Whether the time of a film runs, of which faulthandler tells the interpreter."""

    runs: bool = False

    def start(self, *_: object, **__: object) -> None:
        self.runs = True

    def stop(self) -> None:
        self.runs = False


class WatchedStore(AwayStore):
    """One that is away as predecessors are looked for; whether time ran at each call."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.asked: list[bool] = []
        self._watch = watch

    def jobs(self, *args: Any, **kwargs: Any) -> list[Job]:
        self._be_away()
        return super().jobs(*args, **kwargs)

    def _be_away(self) -> None:
        self.asked.append(self._watch.runs)
        super()._be_away()


class FalteringStore(MemoryJobStore):
    """A store that is away once when it is asked for the results of this job."""

    falters_at: str = ""

    def results(self, key: str) -> list[Result]:
        if key == self.falters_at:
            self.falters_at = ""
            raise StoreUnavailableError("the database is away")
        return super().results(key)


@dataclass
class Bench:
    """A worker with one job waiting, and what it works on."""

    folder: Path
    store: MemoryJobStore = field(default_factory=MemoryJobStore)
    engine: Engine = field(default_factory=BrightnessEngine)
    reader: FilmReader = field(default_factory=InProcess)
    capacity_bytes: int = 1 << 30
    lease_s: float = 60.0
    now: datetime = NOON
    labels: SeriesLabels = field(default_factory=SeriesLabels)
    overrides: dict[str, tuple[str, ...]] = field(default_factory=dict)
    compressions: dict[str, str] = field(default_factory=dict)
    validator: Path | None = None
    waived: dict[str, tuple[str, ...]] = field(default_factory=dict)
    source: pydicom.Dataset = field(default_factory=sources.source)

    def __post_init__(self) -> None:
        source = sources.write(self.source, self.folder / "source.dcm").read_bytes()
        self.source_bytes = len(source)
        self.objects = MemoryObjectStore(self.folder, self.source_bytes + self.capacity_bytes)
        self.add(replace(new_job(), object=self.objects.keep("received/a.dcm", source)))

    def add(self, job: NewJob) -> None:
        number = self.store.receive(film(job.sop_instance_uid)).number
        self.store.route(number, Decision(text="analysed", job_key=job.key), job)

    def worker(self) -> Worker:
        return Worker(
            store=self.store,
            objects=self.objects,
            engine=self.engine,
            reader=self.reader,
            settings=WorkerSettings(
                owner="worker",
                lease_s=self.lease_s,
                again_s=0.01,
                labels=self.labels,
                overrides=self.overrides,
                compressions=self.compressions,
                waived=self.waived,
            ),
            clock=lambda: self.now,
            inspector=Inspector(self.validator),
        )

    def kinds_at(self, destination: str) -> list[str]:
        kinds = {made.sop_instance_uid: made.kind for made in self.store.results("k1")}
        found = [d for d in self.store.deliveries("k1") if d.destination == destination]
        return [kinds[delivery.sop_instance_uid] for delivery in found]

    def kept(self, kind: str, key: str = "k1") -> pydicom.Dataset:
        (made,) = [made for made in self.store.results(key) if made.kind == kind]
        return pydicom.dcmread(io.BytesIO(self.objects.read(made.object)))

    def job_to_be(self, key: str, created_s: float) -> NewJob:
        """Another analysis of the same film."""
        return replace(new_job(key, created_s), object=self.job.object)

    def turn(self) -> Turn:
        return self.worker().work_once()

    @property
    def job(self) -> Job:
        return self.store.job("k1")

    def lose_the_lease(self) -> None:
        """The lease runs out and another worker has the job."""
        self.store.reclaim(after(self.lease_s + 1), max_attempts=3)
        assert self.store.claim("other", after(self.lease_s + 2), self.lease_s)


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


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """It ends no process while it is looked at."""
    found = Watch()
    monkeypatch.setattr(faulthandler, "dump_traceback_later", found.start)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", found.stop)
    return found


def test_a_film_s_time_does_not_run_while_its_worker_waits_for_the_database(
    tmp_path: Path, watch: Watch
) -> None:
    store, at_work = WatchedStore(watch), []
    bench = Bench(tmp_path, store=store)
    bench.engine = Meanwhile(lambda: at_work.append(watch.runs))
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, at_work, watch.runs) == (JobState.PRODUCED, [True], False)
    assert store.asked == [False] * 5  # thrice in vain


def test_the_time_of_a_note_counts(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, overrides={"pacs": ("not_analysed",)})
    bench.engine = FaultyEngine(FilmError("It shows no chest"))
    encode, at_work = registry.encode, []

    def watched(ds: pydicom.Dataset, compression: str) -> bytes:
        at_work.append(watch.runs)
        return encode(ds, compression)

    monkeypatch.setattr(registry, "encode", watched)
    bench.turn()
    assert (bench.job.state, at_work, watch.runs) == (JobState.REJECTED, [True], False)


def test_a_worker_that_hangs_ends_however_long_it_had_waited_for_others() -> None:
    program = textwrap.dedent("""
        import time
        from dicom_node.work.limit import Limit
        limit = Limit(0.5)
        with limit.kept():
            pass
        with limit.paused():
            time.sleep(1)
        with limit.kept():
            with limit.paused():
                time.sleep(1)
            print("waited", flush=True)
            time.sleep(60)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"waited\n")
    assert b"Timeout" in done.stderr
