"""What becomes of a received film: a job, or a kept decision that says why there is none."""

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, Dataset, uid

from dicom_node.config import Rule
from dicom_node.routing.router import BROKEN, Analysis, Router
from storage import words
from storage.errors import (
    ObjectsUnavailableError,
    OutOfSpaceError,
    StorageError,
    StoreUnavailableError,
)
from storage.jobs import Decision, Job, NewJob, NewReceived, ObjectRef, Received
from storage.memory import MemoryJobStore
from storage.objects import LocalObjectStore, MemoryObjectStore, ObjectStore
from storage.states import JobState
from storage.store import JobStore
from tests import disk
from tests.radiograph import phantom
from tests.results import sources
from tests.storage.filtered import behind_filter
from tests.storage.samples import NOON, after

_PATIENT = ("Phantom", "Ada", "PID-7", "19500102", "ACC-9")
_UID = "1.2.3.4.3"
"""SOP Instance UID of `sources.source()`."""


def rule(name: str = "frontal-chest", **keys: object) -> Rule:
    return Rule.model_validate(
        {
            "name": name,
            "match": {"Modality": ["CR", "DX", "RG"]},
            "results": ["secondary_capture"],
            "destinations": ["pacs"],
            **keys,
        }
    )


@dataclass
class Bench:
    """A router with an empty store."""

    folder: Path
    rules: tuple[Rule, ...] = field(default_factory=lambda: (rule(),))
    analysis: Analysis = field(
        default_factory=lambda: Analysis(
            model_digest="m" * 64, calibration_digest="", mode="calibrated", seed=7
        )
    )
    now: datetime = NOON
    telling: tuple[str, ...] = ()
    overrides: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store: JobStore = MemoryJobStore()
        self.objects: ObjectStore = MemoryObjectStore(self.folder)

    def receive(self, ds: Dataset, by: str = "CR1") -> Received:
        return self.receive_bytes(sources.write(ds, self.folder / "film.dcm").read_bytes(), by=by)

    def receive_bytes(self, data: bytes, uid: str = _UID, by: str = "CR1") -> Received:
        number = len(self.store.received(100))
        return self.record(self.objects.keep(f"received/{number}.dcm", data), uid, by)

    def record(self, ref: ObjectRef, uid: str = _UID, by: str = "CR1") -> Received:
        return self.store.receive(
            NewReceived(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
                sop_instance_uid=uid,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                calling_ae_title=by,
                address="10.0.0.5",
                received_at=self.now,
                object=ref,
            )
        )

    def route(self) -> int:
        return self.router().route_waiting()

    def router(self) -> Router:
        return Router(
            store=self.store,
            objects=self.objects,
            rules=self.rules,
            analysis=self.analysis,
            called_ae_title="VALD",
            clock=lambda: self.now,
            telling=self.telling,
            overrides=self.overrides,
        )

    def decided(self, ds: Dataset) -> str:
        """What is decided about one film, received alone."""
        self.receive(ds)
        assert self.route() == 1
        return self.newest.decision

    @property
    def newest(self) -> Received:
        return self.store.received(1)[0]

    @property
    def jobs(self) -> list[Job]:
        return self.store.jobs(100)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_film_that_a_rule_matches_becomes_a_job(bench: Bench) -> None:
    assert bench.decided(sources.source()) == "analysed by rule frontal-chest"
    (job,) = bench.jobs
    assert bench.newest.job_key == job.key
    assert (job.state, job.sop_instance_uid, job.object) == (
        JobState.RECEIVED,
        _UID,
        bench.newest.object,
    )
    assert (job.rule, job.results, job.destinations) == (
        "frontal-chest",
        ("secondary_capture",),
        ("pacs",),
    )
    assert (job.target, job.model_digest, job.mode, job.seed) == (
        "normal",
        "m" * 64,
        "calibrated",
        7,
    )
    assert (job.calling_ae_title, job.supersedes, job.created_at) == ("CR1", "", NOON)


def test_nothing_waits_once_all_is_decided(bench: Bench) -> None:
    bench.decided(sources.source())
    assert bench.route() == 0


def test_the_first_rule_that_matches_decides_results_and_destinations(bench: Bench) -> None:
    bench.rules = (
        rule("portable", match={"CallingAET": "MOBILE*"}),
        rule("all", match={}, results=["structured_report"], destinations=["archive"]),
        rule(),
    )
    assert bench.decided(sources.source()) == "analysed by rule all"
    (job,) = bench.jobs
    assert (job.rule, job.results, job.destinations) == (
        "all",
        ("structured_report",),
        ("archive",),
    )


def test_the_association_is_matched_too(bench: Bench) -> None:
    bench.rules = (rule("room-1", match={"CallingAET": "CR1", "CalledAET": "VALD"}),)
    assert bench.decided(sources.source()) == "analysed by rule room-1"


def test_a_film_that_no_rule_matches_has_a_decision_that_says_why(bench: Bench) -> None:
    ds = sources.source()
    ds.Modality = "CT"
    assert bench.decided(ds) == (
        "not analysed: no rule matches: Modality is CT, rule frontal-chest wants CR, DX or RG"
    )
    assert bench.jobs == []
    assert bench.newest.job_key == ""


def test_a_guard_turns_a_film_away_in_its_words(bench: Bench) -> None:
    ds = sources.source()
    ds.ViewPosition = "LL"
    said = bench.decided(ds)
    assert said.startswith("not analysed: it is a lateral view; frontal views are analysed")
    assert bench.jobs == []


def test_a_rule_may_waive_a_guard(bench: Bench) -> None:
    bench.rules = (rule(waive=["lateral"]),)
    ds = sources.source()
    ds.ViewPosition = "LL"
    assert bench.decided(ds) == "analysed by rule frontal-chest"


def test_a_waiver_holds_for_its_rule_only(bench: Bench) -> None:
    bench.rules = (rule("sides", match={"CallingAET": "CR9"}, waive=["lateral"]), rule())
    ds = sources.source()
    ds.ViewPosition = "LL"
    assert bench.decided(ds).startswith("not analysed: it is a lateral view")


def test_a_film_sent_again_in_other_bytes_is_the_same_analysis(bench: Bench) -> None:
    bench.decided(sources.source())
    again = sources.source()
    again.StudyDescription = "Thorax"  # no part of who the patient is
    assert bench.decided(again) == "received again: the same analysis (frontal-chest)"
    (job,) = bench.jobs
    assert bench.newest.job_key == job.key


CLINIC = rule("clinic", match={"CallingAET": "CLINIC"}, destinations=["clinic"])


@pytest.mark.parametrize("description", ["", "Thorax"], ids=["same bytes", "another header"])
def test_a_film_that_another_rule_sends_elsewhere_goes_there_too(
    bench: Bench, description: str
) -> None:
    bench.rules = (CLINIC, rule())
    bench.decided(sources.source())
    again = sources.source()
    if description:
        again.StudyDescription = description
    bench.receive(again, by="CLINIC")
    assert bench.route() == 1
    assert bench.newest.decision == (
        "received again: the same analysis (clinic); now for clinic too"
    )
    (job,) = bench.jobs
    assert job.promised == {"pacs": ("secondary_capture",), "clinic": ("secondary_capture",)}
    bench.receive(again, by="CLINIC")
    bench.route()
    assert bench.newest.decision == "received again: the same analysis (clinic)"


def test_a_rule_that_asks_for_more_since_gives_it_to_a_film_that_is_sent_again(
    bench: Bench,
) -> None:
    bench.decided(sources.source())
    end(bench, "produce")
    bench.rules = (rule(results=["secondary_capture", "segmentation_map"]),)
    bench.record(bench.jobs[0].object)
    assert bench.route() == 1
    assert "now for pacs too" in bench.newest.decision
    (job,) = bench.jobs
    assert (job.state, job.promised) == (
        JobState.RECEIVED,
        {"pacs": ("secondary_capture", "segmentation_map")},
    )


def test_a_destination_is_promised_its_own_results_where_it_has_any(bench: Bench) -> None:
    bench.overrides = {"archive": ("structured_report",)}
    bench.rules = (rule(destinations=["pacs", "archive"]),)
    bench.decided(sources.source())
    (job,) = bench.jobs
    assert job.promised == {"pacs": ("secondary_capture",), "archive": ("structured_report",)}


@pytest.mark.parametrize("telling", [(), ("clinic",)])
def test_who_refuses_a_film_gets_no_results_of_another_rule_that_lets_it_pass(
    bench: Bench, telling: tuple[str, ...]
) -> None:
    bench.rules, bench.telling = (CLINIC, rule(waive=["body_part"])), telling
    bench.decided(refused_by_its_guard())
    bench.receive(refused_by_its_guard(), by="CLINIC")
    bench.route()
    assert bench.newest.decision.startswith("not analysed: ")
    assert bench.newest.job_key == ""
    assert [list(job.promised) for job in bench.jobs] == [["pacs"]]


def test_other_pixels_under_the_same_uid_are_promised_to_nobody(bench: Bench) -> None:
    bench.rules = (CLINIC, rule())
    bench.decided(sources.source())
    bench.receive(with_other_pixels(), by="CLINIC")
    bench.route()
    assert "with other pixels" in bench.newest.decision
    assert [list(job.promised) for job in bench.jobs] == [["pacs"]]


def test_two_films_that_wait_together_are_one_analysis(bench: Bench) -> None:
    bench.receive(sources.source())
    again = sources.source()
    again.StudyDescription = "Thorax"
    bench.receive(again)
    assert bench.route() == 2
    assert len(bench.jobs) == 1
    assert bench.newest.decision == "received again: the same analysis (frontal-chest)"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "PID-8"),
        ("PatientName", "Phantom^Eve"),
        ("PatientBirthDate", "19510102"),
        ("IssuerOfPatientID", "CLINIC"),
        ("AccessionNumber", "ACC-10"),
        ("StudyInstanceUID", "1.2.3.4.7"),
    ],
)
def test_a_corrected_patient_or_study_supersedes_the_earlier_job(
    bench: Bench, keyword: str, value: str
) -> None:
    bench.decided(sources.source())
    (first,) = bench.jobs
    corrected = sources.source()
    setattr(corrected, keyword, value)
    bench.now = after(60)
    assert bench.decided(corrected) == (
        "analysed by rule frontal-chest: patient or study corrected, earlier job superseded"
    )
    second = bench.store.job(bench.newest.job_key)
    assert second.key != first.key
    assert (second.supersedes, second.created_at) == (first.key, after(60))


def test_a_film_that_broke_the_router_does_not_come_back_as_its_own_correction(
    bench: Bench,
) -> None:
    """Once it was mended: the patient was corrected meanwhile, and that film is analysed."""
    broken = bench.receive(sources.source())
    bench.store.route(broken.number, Decision(text=f"{BROKEN} (KeyError)"), None)
    corrected, bench.now = sources.source(), after(60)
    corrected.PatientID = "PID-8"
    assert bench.decided(corrected) == "analysed by rule frontal-chest"
    bench.store.decide_again(after(90))
    assert bench.route() == 0
    assert [(job.key, job.supersedes) for job in bench.jobs] == [(bench.newest.job_key, "")]


def test_a_film_whose_file_anothers_copy_brought_back_is_decided_about_on_demand(
    bench: Bench,
) -> None:
    lost = bench.receive(sources.source())
    bench.objects.remove(lost.object)
    assert bench.route() == 1
    assert bench.newest.decision.startswith(words.GONE)
    data = sources.write(sources.source(), bench.folder / "film.dcm").read_bytes()
    bench.record(bench.objects.keep(lost.object.name, data), by="ELSEWHERE")
    bench.route()
    assert bench.store.decide_again(after(90)) == 1
    assert bench.route() == 1
    decisions = {film.calling_ae_title: film.decision for film in bench.store.received(9)}
    assert decisions["CR1"] == "received again: the same analysis (frontal-chest)"


def test_a_second_correction_supersedes_the_first(bench: Bench) -> None:
    for minute, patient in enumerate(("PID-7", "PID-8", "PID-9")):
        ds = sources.source()
        ds.PatientID = patient
        bench.now = after(60 * minute)
        bench.decided(ds)
    third, second, first = bench.jobs
    assert (first.supersedes, second.supersedes, third.supersedes) == ("", first.key, second.key)


def test_another_films_job_is_not_superseded(bench: Bench) -> None:
    bench.decided(sources.source())
    other = sources.source()
    other.SOPInstanceUID, other.PatientID = "1.2.3.4.9", "PID-8"
    bench.receive_bytes(sources.write(other, bench.folder / "o.dcm").read_bytes(), "1.2.3.4.9")
    bench.route()
    assert bench.newest.decision == "analysed by rule frontal-chest"
    assert [job.supersedes for job in bench.jobs] == ["", ""]


@pytest.mark.parametrize(
    "change", [{"model_digest": "n" * 64}, {"mode": "paper"}, {"seed": 8}], ids=str
)
def test_another_model_mode_or_seed_is_a_new_analysis_that_supersedes_none(
    bench: Bench, change: dict[str, str]
) -> None:
    bench.decided(sources.source())
    bench.analysis = replace(bench.analysis, **change)  # type: ignore[arg-type]  # seed is an int
    again = sources.source()
    again.StudyDescription = "Thorax"
    assert bench.decided(again) == "analysed by rule frontal-chest"
    assert [job.supersedes for job in bench.jobs] == ["", ""]


def test_a_value_that_is_too_long_is_not_called_absent(bench: Bench) -> None:
    ds = sources.source()
    ds["Modality"] = DataElement(0x00080060, "CS", "Q" * (1 << 20), validation_mode=0)
    # In Explicit VR a code has 64 KB at most.
    film = phantom.write(ds, bench.folder / "film.dcm", uid.ImplicitVRLittleEndian)
    bench.receive_bytes(film.read_bytes())
    assert bench.route() == 1
    assert bench.newest.decision == (
        "not analysed: no rule matches: Modality is too long or cannot be read, "
        "rule frontal-chest wants CR, DX or RG"
    )


def test_an_unreadable_header_becomes_a_decision_and_the_next_film_a_job(bench: Bench) -> None:
    bench.receive_bytes(b"not a data set", "1.2.9")
    bench.receive(sources.source())
    assert bench.route() == 2
    newest, oldest = bench.store.received(2)
    assert oldest.decision == ("not analysed: The file is no DICOM object, or is cut short.")
    assert newest.decision == "analysed by rule frontal-chest"


def test_a_film_without_pixels_is_routed_by_its_header(bench: Bench) -> None:
    ds = sources.source()
    del ds.PixelData
    assert bench.decided(ds) == "analysed by rule frontal-chest"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("Modality", "CT"), ("ViewPosition", "LL"), ("PatientAge", "017Y"), ("PatientID", "PID-8")],
)
def test_a_decision_names_no_patient(bench: Bench, keyword: str, value: str) -> None:
    bench.rules = (rule(match={"Modality": "CR", "PatientName": "Phantom*"}),)
    bench.decided(sources.source())
    ds = sources.source()
    setattr(ds, keyword, value)
    ds.PatientName = "Phantom^Ada" if keyword != "PatientID" else "Ada^Phantom"
    said = bench.decided(ds)
    assert said
    assert not [name for name in _PATIENT if name in said]


def test_a_kept_file_that_is_gone_does_not_hold_up_the_films_after_it(bench: Bench) -> None:
    bench.record(ObjectRef(name="received/gone.dcm", digest="0" * 64, size_bytes=1), "1.2.9")
    bench.receive(sources.source())
    bench.route()
    assert bench.newest.decision == "analysed by rule frontal-chest"


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "I/O"),
        MemoryError(),
        ImportError("libx.so: cannot open shared object file: Too many open files"),
        RuntimeError("can't start new thread"),
        StorageError("object received/0.dcm: Input/output error"),
        OutOfSpaceError("copy of object received/0.dcm: no space left"),
    ],
)
def test_a_moments_trouble_leaves_a_film_undecided_and_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """However many: the store gives so many at a time, oldest first."""
    read = bench.objects.local_path

    def troubled(ref: ObjectRef) -> Path:
        if ref.name != "received/1.dcm":
            raise fault
        return read(ref)

    whole = sources.write(sources.source(), bench.folder / "whole.dcm").read_bytes()
    first = bench.receive_bytes(whole, "1.2.9")
    second = bench.receive_bytes(whole, "1.2.10")
    router = bench.router()
    monkeypatch.setattr(bench.objects, "local_path", troubled)
    assert [router.route_waiting(limit=1), router.route_waiting(limit=1)] == [0, 1]
    decided = {film.number: film.decision for film in bench.store.received(10)}
    assert decided == {first.number: "", second.number: "analysed by rule frontal-chest"}
    monkeypatch.undo()
    assert router.route_waiting(limit=1) == 1


def test_one_kept_file_that_the_disk_does_not_give_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.objects = LocalObjectStore(bench.folder / "objects")
    whole = sources.write(sources.source(), bench.folder / "whole.dcm").read_bytes()
    first = bench.receive_bytes(whole, "1.2.9")
    bench.receive_bytes(whole, "1.2.10")
    disk.trouble(monkeypatch, bench.objects.local_path(first.object))
    assert bench.route() == 1
    assert [film.decision for film in bench.store.received(10)] == [
        "analysed by rule frontal-chest",
        "",
    ]


@pytest.mark.parametrize("refused", [None, PermissionError("Forbidden")])
def test_one_object_that_a_bucket_answers_wrongly_holds_up_no_other_film(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, refused: Exception | None
) -> None:
    """It is looked at again, more and more seldom, and routed once its own bytes come."""
    bench.objects, asked = behind_filter(monkeypatch, "received/0.dcm", refused)
    whole = sources.write(sources.source(), bench.folder / "whole.dcm").read_bytes()
    bench.receive_bytes(whole, "1.2.9")
    others = [bench.receive_bytes(whole, f"1.2.{n}") for n in (10, 11)]
    router = bench.router()
    assert router.route_waiting() == 2
    assert {f.number for f in bench.store.received(10) if f.decision} == {o.number for o in others}
    first = len(asked)
    assert sum(router.route_waiting() for _ in range(600)) == 0
    assert 2 * first < len(asked) <= 9 * first
    monkeypatch.undo()
    assert sum(router.route_waiting() for _ in range(257)) == 1
    assert not bench.store.unrouted(10)


@pytest.mark.parametrize("fault", [ObjectsUnavailableError("away"), StoreUnavailableError("away")])
def test_where_objects_or_rows_are_away_no_film_is_looked_at(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    looked: list[ObjectRef] = []

    def away(ref: ObjectRef) -> Path:
        looked.append(ref)
        raise fault

    for instance in ("1.2.9", "1.2.10"):
        bench.receive_bytes(b"whatever", instance)
    monkeypatch.setattr(bench.objects, "local_path", away)
    with pytest.raises(type(fault)):
        bench.route()
    assert len(looked) == 1


_CUT_ITEM = b"\xfe\xff\xfe\x20"
"""Where an item's tag should be: pydicom raises OSError when the sequence is looked at."""


def cut_sequence(folder: Path, tag: tuple[int, int]) -> bytes:
    """A film in whose header a sequence of four bytes stands that is no item."""
    whole = sources.write(sources.source(), folder / "whole.dcm").read_bytes()
    element = struct.pack("<HH2sHI", *tag, b"SQ", 0, len(_CUT_ITEM)) + _CUT_ITEM
    pixels = whole.index(b"\xe0\x7f\x10\x00")
    return whole[:pixels] + element + whole[pixels:]


@pytest.mark.parametrize("tag", [(0x0054, 0x0220), (0x0008, 0x2218)], ids=["view", "region"])
def test_a_sequence_that_breaks_off_holds_up_no_film(bench: Bench, tag: tuple[int, int]) -> None:
    poison = bench.receive_bytes(cut_sequence(bench.folder, tag))
    good = bench.receive_bytes(
        sources.write(sources.source(), bench.folder / "good.dcm").read_bytes(), "1.2.3.4.9"
    )
    assert bench.route() == 2
    decided = {film.number: film.decision for film in bench.store.received(10)}
    assert all(decided[number] for number in (poison.number, good.number))


def test_a_film_that_breaks_the_router_ends_as_a_decision(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("unknown encoding: of a patient")

    monkeypatch.setattr("dicom_node.routing.rules.match", broken)
    bench.receive(sources.source())
    assert bench.route() == 1
    (film,) = bench.store.received(10)
    assert film.decision == f"{BROKEN} (LookupError)"


class Late(MemoryJobStore):
    """A store whose writer is at work for another when a decision is to be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] = lambda: None

    def route(
        self,
        number: int,
        decision: Decision,
        job: NewJob | None,
        arrived_at: datetime | None = None,
    ) -> bool:
        self.meanwhile()
        return super().route(number, decision, job, arrived_at)


def test_a_film_that_comes_again_while_its_file_is_found_gone_is_analysed(bench: Bench) -> None:
    bench.store = late = Late()
    lost = bench.receive(sources.source())
    whole = bench.objects.read(lost.object)
    bench.objects.remove(lost.object)

    def come_again() -> None:
        late.meanwhile = lambda: None
        bench.record(bench.objects.keep(lost.object.name, whole))

    late.meanwhile = come_again
    bench.route()
    assert bench.newest.decision == ""
    bench.route()
    assert bench.newest.decision == "analysed by rule frontal-chest"


def with_other_pixels() -> Dataset:
    film = sources.source()
    film.PixelData = bytes(len(film.PixelData) - 2) + b"\1\0"
    return film


def end(bench: Bench, how: str) -> Job:
    """The job that waits is claimed, and ends so."""
    job = bench.store.claim("w", NOON, 60)
    assert job is not None
    assert job.lease is not None
    more = {"produce": ([], []), "reject": ("cut short",), "fail": ("damaged",)}[how]
    getattr(bench.store, how)(job.key, job.lease.token, NOON, *more)
    return bench.store.job(job.key)


def test_other_pixels_under_the_same_uid_are_flagged_and_the_first_kept(bench: Bench) -> None:
    bench.decided(sources.source())
    (job,) = bench.jobs
    assert bench.decided(with_other_pixels()) == (
        "received again with other pixels: the first film is kept (frontal-chest)"
    )
    assert bench.newest.job_key == job.key
    assert len(bench.jobs) == 1


NATIVE = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
]


def of_bits(bits: int, description: str = "") -> Dataset:
    """A film of so many bits a pixel, in words; its description makes other bytes of it."""
    film = sources.source()
    film.StudyDescription = description
    if bits == 8:
        film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
        film.PixelData = film.PixelData[::2]
    return film


def in_syntax(film: Dataset, syntax: str, folder: Path) -> bytes:
    """The film's file; big endian has the bytes of each word swapped (PS3.5 7.3)."""
    if syntax == uid.ExplicitVRBigEndian:
        film.PixelData = np.frombuffer(film.PixelData, np.uint16).byteswap().tobytes()
    return phantom.write(film, folder / "film.dcm", syntax).read_bytes()


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: uid.UID(syntax).name)
@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_are_told_apart_in_whichever_uncompressed_transfer_syntax_they_come(
    bench: Bench, syntax: str, bits: int
) -> None:
    same, other = of_bits(bits, "same"), of_bits(bits, "other")
    other.PixelData = other.PixelData[2:] + b"\1\0"
    bench.decided(of_bits(bits))
    decided = []
    for film in (same, other):
        bench.receive_bytes(in_syntax(film, syntax, bench.folder))
        assert bench.route() == 1
        decided.append(bench.newest.decision)
    assert decided == [
        "received again: the same analysis (frontal-chest)",
        "received again with other pixels: the first film is kept (frontal-chest)",
    ]


@pytest.mark.parametrize("how", ["reject", "fail"])
def test_a_film_takes_the_place_of_one_of_its_uid_that_came_to_nothing(
    bench: Bench, how: str
) -> None:
    bench.decided(sources.source())
    end(bench, how)
    assert bench.decided(with_other_pixels()) == "analysed anew by rule frontal-chest"
    (job,) = bench.jobs
    assert (job.state, job.object) == (JobState.RECEIVED, bench.newest.object)
    assert bench.newest.job_key == job.key


def test_a_film_that_came_while_the_first_was_in_work_is_analysed_where_that_one_fails(
    bench: Bench,
) -> None:
    bench.decided(sources.source())
    bench.decided(with_other_pixels())
    end(bench, "reject")
    assert bench.route() == 1
    assert bench.newest.decision == "analysed anew by rule frontal-chest"
    (job,) = bench.jobs
    assert (job.state, job.object) == (JobState.RECEIVED, bench.newest.object)


def test_the_same_bytes_after_a_failure_are_analysed_anew(bench: Bench) -> None:
    """Its file was damaged: now it is whole."""
    sent = sources.source()
    bench.decided(sent)
    first = end(bench, "fail")
    bench.record(first.object)
    assert bench.route() == 1
    assert bench.newest.decision == "analysed anew by rule frontal-chest"
    assert [job.state for job in bench.jobs] == [JobState.RECEIVED]


def test_a_film_that_waited_while_its_model_was_changed_and_changed_back_is_analysed(
    bench: Bench,
) -> None:
    first, other = bench.analysis, replace(bench.analysis, model_digest="n" * 64)
    bench.receive(sources.source())
    for analysis in (first, other, first):
        bench.analysis = analysis
        assert bench.route() == 1
        job = bench.store.claim("w", NOON, 60)
        assert job is not None
        assert job.lease is not None
        assert job.model_digest == analysis.model_digest
        bench.store.reroute(job.key, job.lease.token, NOON, "another model")


def refused_by_its_guard() -> Dataset:
    film = sources.source()
    film.BodyPartExamined = "HIP"
    return film


def test_where_somebody_is_told_a_film_that_a_guard_refuses_has_a_job_for_its_note(
    bench: Bench,
) -> None:
    bench.telling = ("frontal-chest",)
    said = bench.decided(refused_by_its_guard())
    assert said.startswith("not analysed: ")
    assert "guard body_part" in said
    (job,) = bench.jobs
    assert bench.newest.job_key == job.key


def test_of_a_result_that_comes_back_nobody_is_told(bench: Bench) -> None:
    """Its note would come back too, and the note's note."""
    bench.telling = ("frontal-chest",)
    film = refused_by_its_guard()
    film.SyntheticData = "YES"
    assert bench.decided(film).startswith("not analysed: ")
    bench.rules = (rule(waive=["synthetic"]),)
    assert "guard body_part" in bench.decided(film)
    assert bench.jobs == []


def test_a_film_that_a_guard_refused_is_analysed_once_the_rule_lets_it_pass_and_it_is_sent_again(
    bench: Bench,
) -> None:
    bench.telling = ("frontal-chest",)
    bench.decided(refused_by_its_guard())
    refused = end(bench, "reject")
    bench.record(refused.object)
    assert bench.route() == 1
    assert "guard body_part" in bench.newest.decision  # and its note is made again, once
    end(bench, "reject")
    bench.rules = (rule(waive=["body_part"]),)
    bench.record(refused.object)
    assert bench.route() == 1
    assert bench.newest.decision == "analysed anew by rule frontal-chest"
