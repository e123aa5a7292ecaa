"""Which kept objects go, when, and that no other does."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.config import Retention
from dicom_node.intake.intake import Intake, ReceivedInstance
from dicom_node.status import StoreStatus
from dicom_node.work.retention import Purger, sweep_unknown
from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    StorageError,
    UnknownKeyError,
)
from storage.jobs import Decision, NewReceived, Received
from storage.memory import MemoryJobStore
from storage.objects import LocalObjectStore
from tests.delivery.parcels import NOW, make_due
from tests.intake.films import CLASS, INSTANCE, encoded, film

DAY = timedelta(days=1)


class Bench:
    """A produced job whose results are due to a PACS, with real files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.queried = folder, frozenset[str]()
        self.known = frozenset({"pacs"})
        self.store, self.objects = MemoryJobStore(), LocalObjectStore(folder)
        self.key = make_due(self.store, self.objects, ["1.1", "1.2"])
        (self.film,) = self.store.received(1)
        self.objects.keep(self.film.object.name, b"film")

    def purge(self, days: float, **values: object) -> int:
        purger = Purger(
            store=self.store,
            objects=self.objects,
            retention=Retention.model_validate(values),
            queried=self.queried,
            known=self.known,
        )
        return purger.purge(NOW + days * DAY)

    def deliver(self, *, promised: bool = True) -> None:
        for parcel in self.store.claim_deliveries("pacs", "s", NOW, 60, 10):
            self.store.delivered(parcel, NOW, "", promised=promised)

    def commit(self) -> None:
        self.store.commit("pacs", ["1.1", "1.2"], NOW)

    def holds(self) -> tuple[bool, bool]:
        """Whether the film's file, and its results' files, are there."""
        return self.has(self.film.object.name), self.has("results/1.1.dcm")

    def has(self, name: str) -> bool:
        ref = next(
            ref
            for ref in (self.film.object, *(r.object for r in self.store.results(self.key)))
            if ref.name == name
        )
        try:
            self.objects.local_path(ref)
        except ObjectMissingError:
            return False
        return True


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_without_a_number_of_days_everything_stays(bench: Bench) -> None:
    bench.deliver()
    bench.commit()
    assert bench.purge(10_000) == 0
    assert bench.holds() == (True, True)


def test_each_kind_goes_after_its_own_days(bench: Bench) -> None:
    bench.deliver()
    bench.commit()
    limits = {"received_days": 2, "results_days": 5}
    assert bench.purge(2, **limits) == 0  # not before, but after
    assert bench.purge(2.01, **limits) == 1
    assert bench.holds() == (False, True)
    assert bench.purge(5.01, **limits) == 2
    assert bench.holds() == (False, False)
    assert bench.purge(9, **limits) == 0


def test_what_is_not_committed_stays_unless_the_site_says_delivered_is_enough(
    bench: Bench,
) -> None:
    limits: dict[str, object] = {"received_days": 1, "results_days": 1}
    assert bench.purge(99, **limits, after="delivered") == 0
    bench.deliver()
    assert bench.purge(99, **limits) == 0
    assert bench.holds() == (True, True)
    assert bench.purge(99, **limits, after="delivered") == 3
    assert bench.holds() == (False, False)


def test_what_a_destination_is_yet_to_be_asked_about_stays_though_delivered_is_enough(
    bench: Bench,
) -> None:
    """It is looked for in the study that its file names, and sent again where it is not found."""
    limits: dict[str, object] = {"received_days": 1, "results_days": 1, "after": "delivered"}
    bench.queried = frozenset({"pacs"})
    bench.deliver()
    assert bench.purge(99, **limits) == 0
    assert bench.holds() == (True, True)
    bench.commit()
    assert bench.purge(99, **limits) == 3


def test_what_a_removed_destination_was_to_commit_stays_though_delivered_is_enough(
    bench: Bench,
) -> None:
    limits: dict[str, object] = {"received_days": 1, "results_days": 1, "after": "delivered"}
    bench.deliver()
    bench.known = frozenset()
    assert bench.purge(99, **limits) == 0
    assert bench.holds() == (True, True)
    bench.store.drop_deliveries("pacs", NOW, "its destination is no more")
    assert bench.purge(99, **limits) == 3


def test_a_purge_that_was_cut_off_is_finished_by_the_next(bench: Bench) -> None:
    bench.deliver()
    bench.commit()
    bench.objects.remove(bench.film.object)  # and the process died before the row said so
    assert bench.purge(99, received_days=1) == 1
    assert bench.purge(99, received_days=1) == 0


def put_in_its_way(bench: Bench, name: str) -> Path:
    """A folder has the object's name: nobody can unlink it."""
    path = bench.folder / name
    path.unlink()
    path.mkdir()
    return path


def test_a_film_that_cannot_be_removed_stays_and_those_after_it_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.work.retention._BATCH", 1)
    films = [refused(bench.store, bench.objects, f"1.2.{number}") for number in range(3)]
    stuck = put_in_its_way(bench, films[0].object.name)
    assert bench.purge(99, received_days=1) == 2
    assert not any((bench.folder / film.object.name).exists() for film in films[1:])
    assert bench.purge(99, received_days=1) == 0
    stuck.rmdir()
    assert bench.purge(99, received_days=1) == 1


def test_a_result_that_cannot_be_removed_is_left_to_the_sweep_and_the_others_go(
    bench: Bench,
) -> None:
    bench.deliver()
    bench.commit()
    put_in_its_way(bench, "results/1.1.dcm")
    assert bench.purge(99, results_days=1) == 1
    assert not (bench.folder / "results/1.2.dcm").exists()
    assert bench.store.unknown(["results/1.1.dcm"]) == ["results/1.1.dcm"]


def test_nothing_is_removed_where_the_volume_is_gone(bench: Bench) -> None:
    films = [refused(bench.store, bench.objects, f"1.2.{number}") for number in range(3)]
    (bench.folder / ".vald-objects").unlink()
    with pytest.raises(ObjectsUnavailableError):
        bench.purge(99, received_days=1)
    assert all((bench.folder / film.object.name).exists() for film in films)


class Stuck(LocalObjectStore):
    """A store that cannot remove the object of that name."""

    name = ""

    def drop_stale(self, name: str, older_than_s: float) -> bool:
        if name == self.name:
            raise StorageError(f"object {name}: Input/output error")
        return super().drop_stale(name, older_than_s)


def test_a_file_without_a_row_that_cannot_be_removed_holds_up_no_other(tmp_path: Path) -> None:
    objects = Stuck(tmp_path)
    for name in ("a", "b", "c"):
        objects.keep(f"received/{name}.dcm", b"x")
    objects.name = next(iter(objects.stale(-1)))
    assert sweep_unknown(MemoryJobStore(), objects, older_than_s=-1) == 2
    assert list(objects.stale(-1)) == [objects.name]


def test_transactions_that_no_report_is_waited_for_are_forgotten_after_a_month(
    bench: Bench,
) -> None:
    bench.deliver()
    bench.store.ask("pacs", "2.25.1", NOW, NOW + DAY, 10)
    bench.store.ask("pacs", "2.25.2", NOW + DAY, NOW + 99 * DAY, 10)
    bench.purge(30)
    assert bench.store.transaction("2.25.1").destination == "pacs"
    bench.purge(99)
    assert bench.store.transaction("2.25.2").destination == "pacs"  # its report may come yet
    with pytest.raises(UnknownKeyError):
        bench.store.transaction("2.25.1")


class Interrupted(MemoryJobStore):
    """A store in which the purge of a film comes between a resend's file and its row."""

    def __init__(self) -> None:
        super().__init__()
        self.between: Callable[[], object] = lambda: None

    def receive(self, new: NewReceived) -> Received:
        self.between()
        return super().receive(new)


SENT = ReceivedInstance(
    sop_class_uid=CLASS,
    sop_instance_uid=INSTANCE,
    transfer_syntax_uid=ExplicitVRLittleEndian,
    calling_ae_title="CR1",
    address="10.0.0.5",
    data_set=encoded(film()),
)


def refused(store: MemoryJobStore, objects: LocalObjectStore, uid: str = INSTANCE) -> Received:
    """That film was received, and is not analysed."""
    sent = replace(SENT, sop_instance_uid=uid, data_set=encoded(film(uid)))
    Intake(store, objects, lambda: NOW).accept(sent)
    (kept,) = store.received(1)
    store.route(kept.number, Decision(text="not analysed: lateral"), None)
    return kept


def test_a_film_sent_again_while_it_is_purged_has_its_file(tmp_path: Path) -> None:
    store, objects = Interrupted(), LocalObjectStore(tmp_path)
    kept = refused(store, objects)
    purger = Purger(store=store, objects=objects, retention=Retention(received_days=1))
    purged = []
    store.between = lambda: purged.append(purger.purge(NOW + 2 * DAY))
    answer = Intake(store, objects, lambda: NOW).accept(SENT)
    assert answer.status == StoreStatus.SUCCESS
    assert purged == [1, 0]  # recorded twice, since its file had to be kept again
    assert objects.read(kept.object)
    assert store.received(1)[0].decision == ""


def test_files_without_a_row_are_swept_and_others_stay(bench: Bench) -> None:
    orphans = [bench.objects.keep(name, b"x") for name in ("received/o.dcm", "results/o/o.dcm")]
    other = bench.objects.keep("jobs.db", b"x")
    assert sweep_unknown(bench.store, bench.objects) == 0  # they may have their row yet
    assert sweep_unknown(bench.store, bench.objects, older_than_s=-1) == 2
    assert bench.holds() == (True, True)
    assert (bench.folder / other.name).exists()
    assert not any((bench.folder / orphan.name).exists() for orphan in orphans)


def test_a_film_that_is_purged_while_it_is_sent_again_is_decided_about_again(
    tmp_path: Path,
) -> None:
    """The file goes between the resend's file and its row, and who routes looks just then."""
    store, objects = MemoryJobStore(), LocalObjectStore(tmp_path)
    first = refused(store, objects)

    class Purged(MemoryJobStore):
        """The same rows, in whose way somebody comes once."""

        def receive(self, new: NewReceived) -> Received:
            received = store.receive(new)
            if not came:
                came.append(received)
                objects.remove(received.object)
                store.route(received.number, Decision(text="the kept file is gone"), None)
            return received

    came: list[Received] = []
    answer = Intake(Purged(), objects, lambda: NOW).accept(SENT)
    assert answer.status == StoreStatus.SUCCESS
    assert len(came) == 1
    assert [waiting.number for waiting in store.unrouted(9)] == [first.number]
    objects.demand(first.object)
