"""From what is due to what the store says of it."""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt

from dicom_node.config import DeliverySettings, DeliveryTimeouts, Destination, Retry, Tls
from dicom_node.delivery import delivery as delivering
from dicom_node.delivery import study
from dicom_node.delivery.delivery import Delivery
from dicom_node.delivery.dicomweb import WebSender
from dicom_node.delivery.gateway import open_gateway
from dicom_node.delivery.outcome import Fate
from dicom_node.delivery.scu import Scu
from storage.errors import StoreUnavailableError
from storage.jobs import ObjectRef, Parcel
from storage.memory import MemoryJobStore
from storage.objects import FsspecObjectStore, LocalObjectStore, ObjectStore
from storage.objects.service import Service
from storage.states import DeliveryState, JobState
from tests.delivery import pacs
from tests.delivery.parcels import NOW, data_set, make_due, part10
from tests.storage.filtered import behind_filter
from tests.storage.samples import NOON, produced

TIMEOUTS = DeliveryTimeouts(connect_s=5, association_s=5, response_s=5)
SETTINGS = DeliverySettings(
    batch=32,
    timeouts=TIMEOUTS,
    retry=Retry(first_delay_s=10, factor=2, max_delay_s=1000, jitter=0.2),
)
UIDS = ["1.1", "1.2", "1.3"]


class Bench:
    """Three results due to destinations, in real stores."""

    def __init__(self, folder: Path, destinations: dict[str, int]) -> None:
        self.store, self.objects = MemoryJobStore(), LocalObjectStore(folder / "objects")
        self.folder = folder
        self.destinations = {
            name: Destination(ae_title="PACS", host="127.0.0.1", port=port, confirm_study=False)
            for name, port in destinations.items()
        }
        self.key = make_due(self.store, self.objects, UIDS, tuple(destinations))

    def tick(self, now: datetime = NOW, settings: DeliverySettings = SETTINGS) -> int:
        return self.delivery(settings).tick(now)

    def delivery(
        self,
        settings: DeliverySettings = SETTINGS,
        stop: threading.Event | None = None,
        objects: ObjectStore | None = None,
        clock_s: Callable[[], float] = lambda: 0.0,
    ) -> Delivery:
        """What sends them; unless told otherwise its clock stands still."""
        scu = Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=settings.timeouts)
        return Delivery(
            store=self.store,
            objects=objects or self.objects,
            gateway=open_gateway(scu, WebSender(TIMEOUTS)),
            destinations=self.destinations,
            settings=settings,
            owner="test",
            stop=stop or threading.Event(),
            chance=lambda: 0.5,
            clock_s=clock_s,
        )

    def states(self, destination: str = "pacs") -> list[DeliveryState]:
        found = self.store.deliveries(self.key)
        return [d.state for d in found if d.destination == destination]

    def waits_s(self) -> list[float]:
        return [(d.next_attempt_at - NOW).total_seconds() for d in self.store.deliveries(self.key)]


Make = Callable[..., Bench]
DUE, DELIVERED, REFUSED = DeliveryState.DUE, DeliveryState.DELIVERED, DeliveryState.REFUSED


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **ports: Bench(tmp_path, ports)


@pytest.fixture
def renewed_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch's lease is renewed before each file and each result: where tests come in between."""
    monkeypatch.setattr(delivering, "_RENEWED_AFTER_S", 0.0)


def test_what_is_due_is_delivered_once_and_as_it_was_kept(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        assert bench.tick() == 3
        assert bench.tick() == 0
    assert sorted(peer.received) == [(uid, data_set(uid)) for uid in UIDS]
    assert bench.states() == [DELIVERED] * 3


def test_small_batches_follow_each_other_until_nothing_is_due(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        assert bench.tick(settings=SETTINGS.model_copy(update={"batch": 2})) == 3
    assert peer.associations == 2


@pytest.mark.usefixtures("renewed_each_time")
def test_what_is_made_for_a_destination_that_was_held_meanwhile_is_not_sent(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        renew = bench.store.renew_deliveries

        def renewed(parcels: Sequence[Parcel], until: datetime) -> int:
            if not bench.store.destination("pacs").held:  # the operator holds it now
                bench.store.hold("pacs", NOON)
                produced(bench.store, "k2")
            return renew(parcels, until)

        bench.store.renew_deliveries = renewed  # type: ignore[method-assign]  # to be in between
        assert bench.tick(NOON) == 3
        assert {d.state for d in bench.store.deliveries("k2")} == {DUE}
        assert bench.tick(NOON) == 0
    at_pacs = {d.state for d in bench.store.deliveries("k2") if d.destination == "pacs"}
    assert at_pacs == {DeliveryState.HELD}


def test_of_a_batch_only_what_failed_is_sent_again(make: Make) -> None:
    with pacs.running() as peer:
        peer.answers = [0x0000, 0xA700, 0x0000]
        bench = make(pacs=peer.port)
        assert bench.tick() == 2
        failed = peer.received[1][0]
        assert bench.tick(NOW + timedelta(seconds=9)) == 0  # not before its time
        assert bench.tick(NOW + timedelta(seconds=10)) == 1
    assert [uid for uid, _ in peer.received].count(failed) == 2
    assert len(peer.received) == 4
    assert bench.states() == [DELIVERED] * 3


def test_an_association_that_dies_leaves_the_unsent_due_at_once(make: Make) -> None:
    with pacs.running() as peer:
        peer.answers = [0x0000, pacs.ABORT]
        bench = make(pacs=peer.port)
        assert bench.tick() == 1
        assert sorted(bench.states()) == sorted([DELIVERED, DUE, DUE])
        assert bench.tick() == 1  # the unsent one
        assert bench.tick(NOW + timedelta(seconds=10)) == 1  # the one that was cut off
    assert bench.states() == [DELIVERED] * 3


def test_a_refused_result_is_not_sent_again(make: Make) -> None:
    with pacs.running() as peer:
        peer.answers = [0xC000, 0x0122, 0xA900]
        bench = make(pacs=peer.port)
        assert bench.tick() == 0
        assert bench.tick(NOW + timedelta(days=1)) == 0
    assert len(peer.received) == 3
    assert bench.states() == [REFUSED] * 3


def test_a_warning_is_delivered_with_a_note(make: Make) -> None:
    with pacs.running() as peer:
        peer.answers = [0xB000, 0xB006, 0xB007]
        bench = make(pacs=peer.port)
        assert bench.tick() == 3
    assert bench.states() == [DELIVERED] * 3
    assert sorted(d.reason for d in bench.store.deliveries(bench.key)) == [
        "coercion of data elements (B000)",
        "data set does not match SOP class (B007)",
        "elements discarded (B006)",
    ]


def test_delays_grow_while_a_destination_is_away(make: Make, closed_port: int) -> None:
    bench = make(pacs=closed_port)
    waited_s = 0
    for delay_s in (10, 20, 40, 80):
        assert bench.tick(NOW + timedelta(seconds=waited_s)) == 0
        waited_s += delay_s
        assert bench.waits_s() == [waited_s] * 3
    assert bench.states() == [DUE] * 3
    assert bench.store.deliveries(bench.key)[0].reason == "cannot connect"


def test_a_peer_that_does_not_know_us_is_tried_at_the_longest_delay(make: Make) -> None:
    with pacs.running(knows="OTHER") as peer:
        bench = make(pacs=peer.port)
        bench.tick()
    assert bench.waits_s() == [1000] * 3


def test_a_destination_that_is_away_keeps_no_other_waiting(make: Make, closed_port: int) -> None:
    with pacs.running() as peer:
        bench = make(away=closed_port, pacs=peer.port)
        assert bench.tick() == 3
    assert bench.states("pacs") == [DELIVERED] * 3
    assert bench.states("away") == [DUE] * 3


def test_a_file_that_is_gone_or_damaged_is_refused_alone(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        (bench.folder / "objects/results/1.1.dcm").unlink()
        damaged = bench.folder / "objects/results/1.2.dcm"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
        assert bench.tick() == 1
    assert bench.states() == [REFUSED, REFUSED, DELIVERED]
    assert [uid for uid, _ in peer.received] == ["1.3"]


@pytest.mark.usefixtures("renewed_each_time")
def test_a_result_that_is_made_again_while_others_are_sent_is_sent_too(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        (bench.folder / "objects/results/1.1.dcm").unlink()
        bench.store.retry(bench.key, NOW, ["1.1"])
        job = bench.store.claim("worker", NOW, 60)
        assert job is not None
        assert job.lease is not None
        token, renew = job.lease.token, bench.store.renew_deliveries

        def renewed(parcels: Sequence[Parcel], until: datetime) -> int:
            if bench.store.job(bench.key).state is JobState.RUNNING:  # its worker ends now
                made = bench.store.results(bench.key)
                bench.objects.keep(made[0].object.name, part10("1.1"))
                bench.store.produce(bench.key, token, NOW, made, ["pacs"])
            return renew(parcels, until)

        bench.store.renew_deliveries = renewed  # type: ignore[method-assign]  # to be in between
        bench.tick()
    assert bench.states() == [DELIVERED] * 3
    assert sorted(peer.received) == [(uid, data_set(uid)) for uid in UIDS]


def test_a_certificate_of_ours_that_cannot_be_read_is_the_reason_why_results_wait(
    make: Make, closed_port: int, tmp_path: Path
) -> None:
    bench = make(pacs=closed_port)
    missing = Tls(authority=str(tmp_path / "gone.pem"))
    bench.destinations["pacs"] = bench.destinations["pacs"].model_copy(update={"tls": missing})
    bench.tick()
    assert bench.states() == [DUE] * 3
    assert bench.waits_s() == [1000.0] * 3
    (reason,) = {d.reason for d in bench.store.deliveries(bench.key)}
    assert reason.startswith("tls: no such file or directory") or "gone.pem" in reason
    assert bench.store.destination("pacs").reason == reason


def test_what_nobody_foresaw_is_a_reason_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(pacs=1)
    monkeypatch.setattr(Scu, "send", lambda *_: [][0])
    bench.tick()
    assert bench.states() == [DUE] * 3
    assert {d.reason for d in bench.store.deliveries(bench.key)} == {"IndexError: see the log"}


def test_memory_that_is_wanting_here_is_no_destination_s_fault_and_soon_tried_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(pacs=1)

    def too_large(*_: object) -> bytes:
        return bytes(1 << 62)

    monkeypatch.setattr(Scu, "send", too_large)
    bench.tick()
    assert bench.states() == [DUE] * 3
    assert max(bench.waits_s()) < 1000.0  # the longest delay
    said = "too little memory was free; free some, or give it more"
    assert {d.reason for d in bench.store.deliveries(bench.key)} == {said}
    health = bench.store.destination("pacs")
    assert health is None or health.failures == 0


def test_what_a_dead_process_had_claimed_is_due_after_its_lease(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        assert len(bench.store.claim_deliveries("pacs", "dead", NOW, 60, 10)) == 3
        assert bench.tick() == 0
        later = NOW + timedelta(seconds=61)
        bench.store.reclaim(later, 3)
        assert bench.tick(later) == 3


def test_the_lease_outlives_the_longest_batch(make: Make, closed_port: int) -> None:
    # connect, associate, begin results for 60 s, the last answer, release
    assert make(pacs=closed_port).delivery().lease_s > 5 + 5 + 60 + 5 + 5


def test_the_lease_outlives_the_slowest_result(make: Make, closed_port: int) -> None:
    # By DICOMweb: its last piece is taken, then head and body of the answer come. Twice: its study
    # is asked for, and it is sent.
    slow = DeliverySettings(timeouts=DeliveryTimeouts(connect_s=1, association_s=1, response_s=90))
    assert make(pacs=closed_port).delivery(slow).lease_s > 2 * (1 + 90 + 90 + 90)


def test_without_destinations_nothing_is_done(make: Make) -> None:
    assert make().tick() == 0


def test_a_file_that_cannot_be_read_now_keeps_no_other_waiting(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        unreadable = bench.folder / "objects/results/1.1.dcm"
        unreadable.unlink()
        unreadable.mkdir()
        assert bench.tick() == 2
    assert bench.states() == [DUE, DELIVERED, DELIVERED]


def test_one_object_that_a_bucket_answers_wrongly_keeps_no_other_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    filtered, _ = behind_filter(monkeypatch, "1.1.dcm")
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        for uid in UIDS:
            filtered.keep(f"results/{uid}.dcm", part10(uid))
        assert bench.delivery(objects=filtered).tick(NOW) == 2
    assert bench.states() == [DUE, DELIVERED, DELIVERED]
    (waiting, *_) = bench.store.deliveries(bench.key)
    assert waiting.reason == "the kept file cannot be read now"
    assert waiting.next_attempt_at > NOW


def test_objects_that_are_away_are_asked_for_once_a_batch(make: Make, closed_port: int) -> None:
    """A service that is silent takes half a minute to be so."""
    bench, asked = make(pacs=closed_port), []
    read = bench.objects.read

    def noted(ref: ObjectRef) -> bytes:
        asked.append(ref)
        return read(ref)

    bench.objects.read = noted  # type: ignore[method-assign]  # to count
    (bench.folder / "objects").rename(bench.folder / "unmounted")
    assert bench.tick() == 0
    assert len(asked) == 1
    assert bench.states() == [DUE] * 3


def test_a_batch_keeps_its_lease_however_long_it_takes(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        minutes = iter(range(0, 10**6, 600))  # each look at the clock is ten minutes later
        scu = Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=TIMEOUTS)
        reclaimed: list[str] = []
        renew = bench.store.renew_deliveries

        def renewed(parcels: Sequence[Parcel], until: datetime) -> int:
            number = renew(parcels, until)
            bench.store.reclaim(until - timedelta(seconds=1), 3)  # as another process would
            reclaimed.extend(str(state) for state in bench.states() if state is DUE)
            return number

        bench.store.renew_deliveries = renewed  # type: ignore[method-assign]  # to look between
        Delivery(
            store=bench.store,
            objects=bench.objects,
            gateway=open_gateway(scu, WebSender(TIMEOUTS)),
            destinations=bench.destinations,
            settings=SETTINGS,
            owner="test",
            clock_s=lambda: float(next(minutes)),
        ).tick(NOW)
    assert reclaimed == []
    assert bench.states() == [DELIVERED] * 3


def test_a_batch_keeps_its_lease_however_slow_its_files_come(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pacs.running() as peer:
        bench, fetched_at_s = make(pacs=peer.port), [0.0]
        remote = FsspecObjectStore(f"memory://{tmp_path.name}-slow")
        for uid in UIDS:
            remote.keep(f"results/{uid}.dcm", part10(uid))
        delivery = bench.delivery(objects=remote, clock_s=lambda: fetched_at_s[-1])
        get = Service.get

        def slow(service: Service, name: str, size_bytes: int) -> bytes:
            fetched_at_s.append(fetched_at_s[-1] + 0.9 * delivery.lease_s)
            bench.store.reclaim(NOW + timedelta(seconds=fetched_at_s[-1]), 3)  # as another would
            return get(service, name, size_bytes)

        monkeypatch.setattr(Service, "get", slow)
        assert delivery.tick(NOW) == 3
    assert len(fetched_at_s) == 1 + 3
    assert bench.states() == [DELIVERED] * 3


def test_a_batch_that_is_sent_soon_is_not_renewed(make: Make) -> None:
    """Each renewal is a write, for which a locked database lets us wait."""
    with pacs.running() as peer:
        bench, renewed = make(pacs=peer.port), []

        def noted(parcels: Sequence[Parcel], until: datetime) -> int:
            renewed.append(until)
            return len(parcels)

        bench.store.renew_deliveries = noted  # type: ignore[method-assign]  # to count
        assert bench.tick() == 3
    assert renewed == []


def test_nothing_is_begun_once_a_lease_that_cannot_be_renewed_is_over(make: Make) -> None:
    with pacs.running() as peer:
        bench, passed_s = make(pacs=peer.port), [0.0]
        delivery, read = bench.delivery(clock_s=lambda: passed_s[-1]), bench.objects.read

        def slow(ref: ObjectRef) -> bytes:
            passed_s.append(passed_s[-1] + 0.3 * delivery.lease_s)
            return read(ref)

        def locked(*_: object) -> int:
            passed_s.append(passed_s[-1] + 0.3 * delivery.lease_s)
            raise StoreUnavailableError("database is locked")

        bench.objects.read = slow  # type: ignore[method-assign]  # to take its time
        bench.store.renew_deliveries = locked  # type: ignore[method-assign,assignment]  # to be away
        assert delivery.tick(NOW) == 0
    assert peer.received == []
    assert bench.states() == [DUE] * 3


def taken_over(bench: Bench) -> None:
    """As if the clock had been set forward by an hour, or we had been suspended for so long."""
    late = NOW + timedelta(hours=1)
    bench.store.reclaim(late, 3)
    bench.store.claim_deliveries("pacs", "other", late, 3600, 10)


def test_what_another_process_has_taken_over_is_not_sent_on(make: Make) -> None:
    """Seen within seconds, however long its lease would have been."""
    passed_s = [0.0]
    with pacs.running() as peer:
        bench = make(pacs=peer.port)

        def clock_s() -> float:
            if len(peer.received) == 1 and not passed_s[0]:
                taken_over(bench)
                passed_s[0] = 6.0
            return passed_s[0]

        bench.delivery(clock_s=clock_s).tick(NOW)
    assert len(peer.received) == 1
    assert bench.states() == [DeliveryState.SENDING] * 3  # by the other


def test_what_was_read_before_another_process_took_it_over_is_not_sent(make: Make) -> None:
    passed_s = [0.0]

    class Slow(LocalObjectStore):
        def whole_path(self, ref: ObjectRef) -> Path:
            taken_over(bench)
            passed_s[0] = 6.0
            return super().whole_path(ref)

    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        slow = Slow(bench.folder / "objects")
        bench.delivery(objects=slow, clock_s=lambda: passed_s[0]).tick(NOW)
    assert peer.received == []
    assert bench.states() == [DeliveryState.SENDING] * 3  # by the other


@pytest.mark.usefixtures("renewed_each_time")
def test_a_dispatcher_that_is_to_stop_sends_what_it_has_begun_and_no_more(make: Make) -> None:
    stop = threading.Event()
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        note, began = bench.store.renew_deliveries, []

        def renewed(parcels: Sequence[Parcel], until: datetime) -> int:
            began.append(until)
            if len(began) > len(UIDS):  # their files were read, and the first result begins
                stop.set()
            return note(parcels, until)

        bench.store.renew_deliveries = renewed  # type: ignore[method-assign]  # to be in between
        arrived = bench.delivery(stop=stop).tick(NOW)
    assert (arrived, len(peer.received)) == (1, 1)
    assert bench.states() == [DELIVERED, DUE, DUE]
    assert bench.waits_s() == [0.0] * 3


def test_no_study_is_asked_for_after_the_time_is_up(make: Make) -> None:
    with pacs.running() as peer:
        bench = make(pacs=peer.port)
        scu = Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=TIMEOUTS)
        gateway = open_gateway(scu, WebSender(TIMEOUTS))
        files = [bench.folder / f"objects/results/{uid}.dcm" for uid in UIDS]
        place = bench.destinations["pacs"].model_copy(update={"confirm_study": True})
        kept_back = study.objections(gateway, place, files, 0.0)
    assert {outcome.fate for outcome in kept_back.values()} == {Fate.UNSENT}
    assert list(kept_back) == files
    assert peer.queries == []


@pytest.mark.usefixtures("renewed_each_time")
def test_a_pacs_that_ends_each_association_before_anything_is_sent_has_growing_delays_and_a_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ae = AE(ae_title="PACS")
    for sop_class in pacs.CLASSES:
        ae.add_supported_context(sop_class)
    about_to_send, ended = threading.Semaphore(0), threading.Semaphore(0)

    def end(event: Any) -> None:
        about_to_send.acquire(timeout=10)
        event.assoc.abort()
        ended.release()

    handlers: list[Any] = [(evt.EVT_ESTABLISHED, end)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    bench = Bench(tmp_path, {"pacs": server.server_address[1]})
    renew = bench.store.renew_deliveries
    begun: list[Sequence[Parcel]] = []

    def after_the_end(parcels: Sequence[Parcel], until: datetime) -> int:
        begun.append(parcels)
        if sum(one is parcels for one in begun) <= len(parcels):  # their files are read
            return renew(parcels, until)
        about_to_send.release()
        ended.acquire(timeout=10)
        threading.Event().wait(0.3)  # until our side knows
        return renew(parcels, until)

    monkeypatch.setattr(bench.store, "renew_deliveries", after_the_end)
    settings = SETTINGS.model_copy(update={"rest_after": 3})
    try:
        for tick in range(10):
            bench.tick(NOW + timedelta(seconds=tick), settings)
    finally:
        server.shutdown()
    found = bench.store.deliveries(bench.key)
    assert {(d.state, d.attempts) for d in found} == {(DeliveryState.DUE, 1)}
    assert min(d.next_attempt_at for d in found) >= NOW + timedelta(seconds=8)
    health = bench.store.destination("pacs")
    assert health.failures == 3
    assert health.retry_at is not None
