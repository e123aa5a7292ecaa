"""From what was delivered to what the destination says it has stored for good."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pydicom
import pytest
import structlog.testing
from structlog.processors import JSONRenderer

from dicom_node import logs
from dicom_node.commitment import Ledger, Report
from dicom_node.config import (
    CommitmentSettings,
    DeliverySettings,
    DeliveryTimeouts,
    Destination,
    DicomWeb,
    Limits,
    Node,
    Retry,
)
from dicom_node.delivery.commitment import Asker, Commitment
from dicom_node.delivery.delivery import Delivery
from dicom_node.delivery.dicomweb import WebSender
from dicom_node.delivery.gateway import open_gateway
from dicom_node.delivery.scu import Scu
from dicom_node.intake.intake import Intake
from dicom_node.intake.pressure import Pressure
from dicom_node.intake.scp import Scp
from storage.jobs import DestinationHealth, Transaction
from storage.memory import MemoryJobStore
from storage.objects import LocalObjectStore
from tests.delivery import pacs, web
from tests.delivery.pacs import Pacs
from tests.delivery.parcels import NOW, data_set, make_due
from tests.delivery.web import Json, Web, instance

_LONG_S = 30.0
_TIMEOUTS = DeliveryTimeouts(connect_s=5, association_s=5, response_s=5)
_HASTY = DeliveryTimeouts(connect_s=5, association_s=5, response_s=1)
_SETTINGS = DeliverySettings(
    timeouts=_TIMEOUTS,
    retry=Retry(first_delay_s=10, factor=2, max_delay_s=1000, jitter=0),
    commitment=CommitmentSettings(linger_s=3, report_within_s=600),
)
_IN_VAIN = CommitmentSettings(linger_s=0.2, report_within_s=600)
"""Where the PACS never reports: as long as it takes to see that."""


class Bench:
    """Three results delivered to a PACS that is asked for commitment, and the node's own SCP."""

    def __init__(self, folder: Path, peer: Pacs) -> None:
        self.store, self.peer, self.now = MemoryJobStore(), peer, NOW
        self.objects = LocalObjectStore(folder / "objects")
        self.key = make_due(self.store, self.objects, ["1.1", "1.2", "1.3"])
        self.destinations = {
            "pacs": Destination(
                ae_title="PACS",
                host="127.0.0.1",
                port=peer.port,
                commitment="storage_commitment",
            )
        }
        self.pressure: Pressure | None = None
        self.stop = threading.Event()
        self.scp = self.listening()
        peer.reports_to = self.scp.port

    def restart_scp(self) -> None:
        """The node knows all destinations there are now, and how full it is."""
        self.scp.stop()
        self.scp = self.listening()
        self.peer.reports_to = self.scp.port

    def listening(self) -> Scp:
        node = Node.model_validate(
            {"host": "127.0.0.1", "port": 0, "accept": [{"ae_title": "CR1"}]}
        )
        intake = Intake(self.store, self.objects, lambda: self.now, self.pressure)
        scp = Scp(node, intake, ledger=self.ledger())
        scp.start()
        return scp

    def promise(self, commitment: str) -> None:
        """The PACS proves storage in this way from now on."""
        changed = self.destinations["pacs"].model_copy(update={"commitment": commitment})
        self.destinations["pacs"] = changed

    def ledger(self) -> Ledger:
        return Ledger(
            store=self.store,
            destinations=self.destinations,
            retry=_SETTINGS.retry,
            clock=lambda: self.now,
            chance=lambda: 0.5,
        )

    def deliver(self, after_s: float = 0) -> None:
        scu = Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=_TIMEOUTS)
        self.now = NOW + timedelta(seconds=after_s)
        Delivery(
            store=self.store,
            objects=self.objects,
            gateway=open_gateway(scu, WebSender(_TIMEOUTS)),
            destinations=self.destinations,
            settings=_SETTINGS,
            owner="test",
            chance=lambda: 0.5,
            clock_s=lambda: 0.0,
        ).tick(self.now)

    def ask(
        self,
        after_s: float = 0,
        clock_s: Callable[[], float] = lambda: 0.0,
        **changed: object,
    ) -> int:
        self.now = NOW + timedelta(seconds=after_s)
        reported = any(way != pacs.NEVER for way, _ in self.peer.reports)
        waiting = {} if reported else {"commitment": _IN_VAIN}
        settings = _SETTINGS.model_copy(update=waiting | changed)
        commitment = Commitment(
            store=self.store,
            objects=self.objects,
            ledger=self.ledger(),
            asker=Asker(ae_title="VALD", implementation_class_uid="1.2.3"),
            gateway=open_gateway(
                Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=settings.timeouts),
                WebSender(_TIMEOUTS),
            ),
            destinations=self.destinations,
            settings=settings,
            new_uid=lambda: f"2.25.{len(self.peer.asked) + 1}",
            chance=lambda: 0.5,
            stop=self.stop,
            clock_s=clock_s,
        )
        return sum(commitment.serve(name, self.now) for name in commitment.names)

    def states(self) -> dict[str, str]:
        found = self.store.deliveries(self.key)
        return {d.sop_instance_uid: str(d.state) for d in found}

    def reasons(self) -> set[str]:
        return {d.reason for d in self.store.deliveries(self.key)}

    def due_at(self, uid: str) -> datetime:
        (found,) = [d for d in self.store.deliveries(self.key) if d.sop_instance_uid == uid]
        return found.next_attempt_at


@pytest.fixture
def peer() -> Iterator[Pacs]:
    with pacs.running(commitment=True) as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, peer: Pacs) -> Iterator[Bench]:
    made = Bench(tmp_path, peer)
    made.deliver()
    yield made
    made.scp.stop()


ALL = {"1.1": "COMMITTED", "1.2": "COMMITTED", "1.3": "COMMITTED"}
DELIVERED = dict.fromkeys(ALL, "DELIVERED")


@pytest.mark.parametrize("way", [pacs.SAME, pacs.BEFORE, pacs.LATER])
def test_a_report_commits_whichever_way_it_comes(bench: Bench, peer: Pacs, way: str) -> None:
    peer.reports = [(way, {})]
    assert bench.ask() == 3
    peer.finish_reporting()
    assert bench.states() == ALL
    (asked,) = peer.asked
    assert asked == ("2.25.1", ["1.1", "1.2", "1.3"])
    assert peer.answers_to_reports == [0x0000]
    assert bench.ask(after_s=1000) == 0


def test_a_report_is_answered_before_the_association_that_asked_is_released(
    bench: Bench, peer: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Ledger.take

    def take_and_be_slow(ledger: Ledger, report: Report, ae_title: str) -> None:
        take(ledger, report, ae_title)
        time.sleep(1)  # committed, and the answer is still to be sent

    monkeypatch.setattr(Ledger, "take", take_and_be_slow)
    peer.reports = [(pacs.SAME, {})]
    bench.ask()
    peer.finish_reporting()
    assert peer.answers_to_reports == [0x0000]


def test_of_what_failed_exactly_that_is_sent_again_and_asked_about_again(
    bench: Bench, peer: Pacs
) -> None:
    peer.reports = [(pacs.BEFORE, {"1.2": 0x0112}), (pacs.SAME, {})]
    bench.ask()
    assert bench.states() == {"1.1": "COMMITTED", "1.2": "DUE", "1.3": "COMMITTED"}
    assert bench.due_at("1.2") == NOW + timedelta(seconds=10)
    assert "not committed: no such object there (0112)" in bench.reasons()
    before = len(peer.received)
    bench.deliver(after_s=10)
    assert peer.received[before:] == [("1.2", data_set("1.2"))]
    bench.ask(after_s=10)
    assert peer.asked[1] == ("2.25.2", ["1.2"])
    assert bench.states() == ALL


def test_a_processing_failure_is_sent_again_and_a_conflict_only_slowly(
    bench: Bench, peer: Pacs
) -> None:
    peer.reports = [(pacs.BEFORE, {"1.1": 0x0110, "1.3": 0x0119})]
    bench.ask()
    assert bench.states() == {"1.1": "DUE", "1.2": "COMMITTED", "1.3": "DUE"}
    assert bench.due_at("1.1") == NOW + timedelta(seconds=10)
    assert bench.due_at("1.3") == NOW + timedelta(seconds=1000)


def test_a_duplicate_transaction_is_asked_again_in_another(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.BEFORE, dict.fromkeys(ALL, 0x0131)), (pacs.BEFORE, {})]
    bench.ask()
    assert len(peer.asked) == 1
    bench.ask(after_s=10)  # the first delay
    assert len({uid for uid, _ in peer.asked}) == len(peer.asked) == 2
    assert bench.states() == ALL
    assert len(peer.received) == 3


def test_where_no_report_comes_the_question_is_repeated_and_nothing_sent_again(
    bench: Bench, peer: Pacs
) -> None:
    peer.reports = [(pacs.NEVER, {}), (pacs.BEFORE, {})]
    bench.ask()
    assert bench.states() == DELIVERED
    assert bench.ask(after_s=599) == 0
    assert bench.ask(after_s=600) == 3
    assert bench.states() == ALL
    assert len(peer.received) == 3


def test_a_report_that_comes_after_the_question_was_repeated_still_commits(
    bench: Bench, peer: Pacs
) -> None:
    peer.reports = [(pacs.NEVER, {}), (pacs.NEVER, {})]
    bench.ask()
    bench.ask(after_s=600)
    assert peer.report(*peer.asked[0], {}) == 0x0000
    assert bench.states() == ALL
    assert peer.report(*peer.asked[1], {"1.1": 0x0112}) == 0x0000
    assert bench.states() == ALL


def test_a_failure_that_comes_after_the_question_was_repeated_counts_too(
    bench: Bench, peer: Pacs
) -> None:
    """A destination that takes longer than we wait would else never have failed."""
    peer.reports = [(pacs.NEVER, {}), (pacs.NEVER, {})]
    bench.ask()
    bench.ask(after_s=600)
    assert peer.report(*peer.asked[0], {"1.1": 0x0112}) == 0x0000
    assert bench.states() == {"1.1": "DUE", "1.2": "COMMITTED", "1.3": "COMMITTED"}


def test_a_report_said_twice_is_taken_once(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.NEVER, {})]
    bench.ask()
    for _ in range(2):
        assert peer.report(*peer.asked[0], {"1.1": 0x0110}) == 0x0000
    assert bench.states() == {"1.1": "DUE", "1.2": "COMMITTED", "1.3": "COMMITTED"}


def test_a_report_of_a_transaction_that_nobody_asked_for_is_refused(
    bench: Bench, peer: Pacs
) -> None:
    assert peer.report("2.25.666", ["1.1"], {}) == 0x0115
    assert bench.states() == DELIVERED


@pytest.mark.usefixtures("own_log")
def test_what_a_report_is_answered_does_not_depend_on_the_log(
    bench: Bench, peer: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poor(*_: object) -> None:
        raise MemoryError

    logs.configure("INFO", "json")
    monkeypatch.setattr(JSONRenderer, "__call__", poor)
    assert peer.report("2.25.666", ["1.1"], {}) == 0x0115


def test_a_report_of_instances_that_were_never_sent_there_has_no_effect(
    bench: Bench, peer: Pacs
) -> None:
    peer.reports = [(pacs.NEVER, {})]
    bench.ask()
    assert peer.report(peer.asked[0][0], ["9.9"], {"9.8": 0x0112}) == 0x0000
    assert bench.states() == DELIVERED


_TOO_MANY = {f"9.{n}": 0x0112 for n in range(2600)}  # four elements each
_TOO_LARGE = {f"9.{'1' * 55}{n}": 0x0112 for n in range(2400)}  # of 120 bytes


@pytest.mark.parametrize("failed", [_TOO_MANY, _TOO_LARGE], ids=["elements", "bytes"])
@pytest.mark.parametrize("way", [pacs.SAME, pacs.BEFORE])
def test_a_report_of_far_more_than_anybody_asks_about_is_not_read(
    bench: Bench, peer: Pacs, way: str, failed: dict[str, int]
) -> None:
    peer.reports = [(way, failed)]
    bench.ask()
    peer.finish_reporting()
    assert peer.answers_to_reports == [0x0115]
    assert bench.states() == DELIVERED


def test_what_a_sender_reports_that_is_no_destination_is_not_read(bench: Bench, peer: Pacs) -> None:
    peer.calling = "CR1"
    with structlog.testing.capture_logs() as log:
        assert peer.report("", [], {}) == 0x0115
    (line,) = [line for line in log if line["event"] == "report refused"]
    assert line["reason"] == "its sender is not asked for commitment"


def test_a_destination_may_report_but_not_send(bench: Bench, peer: Pacs) -> None:
    """The node accepts films from CR1 only."""
    assert not peer.may_store_at(bench.scp.port)
    assert peer.report("2.25.666", ["1.1"], {}) is not None
    peer.calling = "STRANGER"
    assert peer.report("2.25.666", ["1.1"], {}) is None


def test_a_node_that_is_full_takes_reports_and_no_films(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.NEVER, {})]
    bench.ask()
    bench.pressure = Pressure(
        store=bench.store,
        objects=bench.objects,
        limits=Limits(soft_free_mb=1 << 40),  # no disk has so much
        clock_s=time.monotonic,
    )
    bench.restart_scp()
    peer.calling = "CR1"
    assert not peer.may_store_at(bench.scp.port)
    peer.calling = "PACS"
    assert peer.report(*peer.asked[0], {}) == 0x0000
    assert bench.states() == ALL


def test_a_store_that_is_away_has_the_report_said_again(bench: Bench, peer: Pacs) -> None:
    from storage.errors import StoreUnavailableError

    def away(transaction_uid: str) -> Transaction:
        raise StoreUnavailableError("locked")

    peer.reports = [(pacs.NEVER, {})]
    bench.ask()
    bench.store.transaction = away  # type: ignore[method-assign]  # the database went away
    assert peer.report(*peer.asked[0], {}) == 0x0213
    del bench.store.transaction
    assert peer.report(*peer.asked[0], {}) == 0x0000
    assert bench.states() == ALL


def test_a_request_that_is_refused_is_made_again_with_growing_delay(
    bench: Bench, peer: Pacs
) -> None:
    peer.action_statuses = [0x0213, 0x0110, 0x0000]
    peer.reports = [(pacs.BEFORE, {})]
    bench.ask()
    assert bench.reasons() == {"commitment not asked: refused (0213)"}
    assert bench.ask(after_s=9) == 0
    bench.ask(after_s=10)
    assert bench.ask(after_s=29) == 0
    bench.ask(after_s=30)
    assert bench.states() == ALL


def test_a_destination_without_the_service_says_so(tmp_path: Path) -> None:
    with pacs.running() as plain:
        bench = Bench(tmp_path, plain)
        bench.deliver()
        bench.ask()
        bench.scp.stop()
    assert bench.reasons() == {"commitment not asked: it does not offer this service"}


def test_nothing_is_asked_where_nothing_is_promised(bench: Bench, peer: Pacs) -> None:
    bench.promise("none")
    assert bench.ask() == 0
    assert peer.asked == []


def test_what_was_delivered_before_anything_was_promised_is_not_asked_about(
    tmp_path: Path, peer: Pacs
) -> None:
    bench = Bench(tmp_path, peer)
    bench.promise("none")
    bench.deliver()
    bench.promise("storage_commitment")
    assert bench.ask(after_s=900 * 86_400) == 0
    bench.scp.stop()
    assert peer.asked == []
    assert bench.states() == DELIVERED


def test_reports_that_come_at_once_by_two_ways_are_one(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.NEVER, {})]
    bench.ask()
    told: list[int | None] = []
    both = [
        threading.Thread(target=lambda: told.append(peer.report(*peer.asked[0], {})))
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(_LONG_S)
    assert told == [0x0000, 0x0000]
    assert bench.states() == ALL


def test_where_there_is_no_commitment_what_a_query_finds_is_committed(
    bench: Bench, peer: Pacs
) -> None:
    bench.promise("query")
    peer.holds = ["1.1", "1.3"]
    bench.ask()
    assert bench.states() == {"1.1": "COMMITTED", "1.2": "DELIVERED", "1.3": "COMMITTED"}
    assert peer.queries[0] == ("IMAGE", "", "1.2.4", ["1.1", "1.2", "1.3"])


def test_what_a_query_does_not_find_three_times_is_sent_again(bench: Bench, peer: Pacs) -> None:
    bench.promise("query")
    peer.holds = ["1.1", "1.3"]
    for after_s in (0, 10, 30):
        assert bench.states()["1.2"] == "DELIVERED"
        bench.ask(after_s=after_s)
    assert bench.states()["1.2"] == "DUE"
    assert bench.reasons() == {"", "not found there, looked 3 times in a row"}
    before = len(peer.received)
    bench.deliver(after_s=40)
    assert peer.received[before:] == [("1.2", data_set("1.2"))]
    peer.holds = ["1.2"]
    bench.ask(after_s=40)
    assert bench.states() == ALL


def test_a_result_is_looked_for_three_times_whatever_is_looked_for_with_it(
    bench: Bench, peer: Pacs
) -> None:
    bench.promise("query")
    peer.holds = []
    for after_s in (0, 10):
        bench.ask(after_s=after_s)
    (new,) = [d for d in bench.store.deliveries(bench.key) if d.sop_instance_uid == "1.3"]
    bench.store.send_again(new, NOW + timedelta(seconds=20), "it had lost it")
    bench.deliver(after_s=20)
    bench.ask(after_s=30)
    assert bench.states() == {"1.1": "DUE", "1.2": "DUE", "1.3": "DELIVERED"}
    assert bench.reasons() == {
        "not found there, looked 3 times in a row",
        "not found there, looked 1 times in a row",
    }
    assert bench.due_at("1.3") == NOW + timedelta(seconds=40)


def test_a_result_that_cannot_be_looked_for_is_not_found_missing(bench: Bench, peer: Pacs) -> None:
    """Its kept file, which says in what study it is, was purged or cannot be read."""
    bench.promise("query")
    peer.holds = [*ALL]
    for made in bench.store.results(bench.key):
        bench.objects.remove(made.object)
    for after_s in (0, 10, 30, 70):
        bench.ask(after_s=after_s)
    assert bench.states() == DELIVERED
    (reason,) = bench.reasons()
    assert reason.startswith("commitment not asked: the kept files are gone")


def test_a_query_that_fails_proves_nothing_either_way(bench: Bench, peer: Pacs) -> None:
    bench.promise("query")
    peer.find_status = 0xA700
    for after_s in (0, 10, 30, 70):
        bench.ask(after_s=after_s)
    assert bench.states() == DELIVERED
    assert bench.reasons() == {"commitment not asked: C-FIND: A700"}


@contextmanager
def at_web(bench: Bench, *uids: str) -> Iterator[Web]:
    """A DICOMweb server in the place of the PACS; these results, or all, say their study."""
    in_studies(bench, *uids or ALL)
    with web.running() as server:
        there = DicomWeb(url=server.url, commitment="query")
        bench.destinations["pacs"] = there  # type: ignore[assignment]  # it is asked alone
        yield server


def in_studies(bench: Bench, *uids: str) -> None:
    """Each of these results is of a study of its own, and so asked about alone."""
    for made in bench.store.results(bench.key):
        kept = bench.objects.local_path(made.object)
        ds = pydicom.dcmread(kept)
        if made.sop_instance_uid in uids:
            ds.StudyInstanceUID = f"1.2.3.{made.sop_instance_uid}"
            ds.save_as(kept)


@pytest.mark.parametrize("status", [302, 400, 403, 404, 500, 503])
def test_a_question_that_always_fails_keeps_no_other_result_from_being_committed(
    bench: Bench, status: int
) -> None:
    with at_web(bench) as server:
        server.search_statuses = {"1.1": status}
        server.found = [instance("1.2"), instance("1.3")]
        bench.ask()
        assert len([path for path in server.searches if "SOPInstanceUID" in path]) == 3
    assert bench.states() == ALL | {"1.1": "DELIVERED"}
    assert bench.due_at("1.1") == NOW + timedelta(seconds=10)


def test_a_query_that_always_fails_keeps_no_other_result_from_being_committed(
    bench: Bench, peer: Pacs
) -> None:
    bench.promise("query")
    in_studies(bench, *ALL)
    peer.holds, peer.find_statuses = ["1.1", "1.3"], {"1.2": 0xC000}
    bench.ask()
    assert bench.states() == ALL | {"1.2": "DELIVERED"}
    assert bench.reasons() == {"", "commitment not asked: C-FIND: C000"}


def test_what_a_server_answers_404_about_is_not_there(bench: Bench) -> None:
    """As some do of a study that they have forgotten."""
    with at_web(bench) as server:
        server.search_statuses = {"1.1": 404}
        server.found = [instance("1.2"), instance("1.3")]
        for after_s in (0, 10, 30):
            bench.ask(after_s=after_s)
    assert bench.states() == ALL | {"1.1": "DUE"}


def test_what_is_not_there_alone_is_sent_again_by_a_server_that_answers_of_studies(
    bench: Bench,
) -> None:
    with at_web(bench) as server:
        server.search_statuses = dict.fromkeys(ALL, 404)
        for after_s in (0, 10, 30):
            bench.ask(after_s=after_s)
        assert len([path for path in server.searches if "limit=1" in path]) == 3  # once a round
    assert bench.states() == dict.fromkeys(ALL, "DUE")


@pytest.mark.parametrize("of_studies", [404, 403, 302, 503])
def test_a_server_that_answers_404_to_everything_is_in_trouble_itself(
    bench: Bench, of_studies: int
) -> None:
    """It starts, or what is before it has lost its route."""
    with at_web(bench) as server:
        server.search_statuses, server.search_status = dict.fromkeys(ALL, 404), of_studies
        for after_s in (0, 10, 30, 70):
            bench.ask(after_s=after_s)
        assert bench.states() == DELIVERED
        (reason,) = bench.reasons()
        assert reason.endswith(f"asked: HTTP 404, and of studies QIDO-RS: HTTP {of_studies}")
        assert bench.ask(after_s=80) == 0  # the delay grows
        server.search_statuses, server.search_status = {}, 200
        server.found = [instance(uid) for uid in ALL]
        bench.ask(after_s=1000)
    assert bench.states() == ALL


def test_a_look_that_nobody_answered_is_none(bench: Bench) -> None:
    """A destination that was away may come back before its index does."""
    with at_web(bench) as server:
        server.search_status = 503
        for n in range(8):
            bench.ask(after_s=n * 1000)
        server.search_status, server.search_statuses = 200, dict.fromkeys(ALL, 404)
        bench.ask(after_s=8000)
        assert bench.reasons() == {"not found there, looked 1 times in a row"}
        bench.ask(after_s=8010)
        server.search_status, server.search_statuses = 503, {}
        bench.ask(after_s=9000)
        server.search_status = 200
        for after_s in (10_000, 11_000):
            bench.ask(after_s=after_s)
        assert bench.states() == DELIVERED
        bench.ask(after_s=12_000)
    assert bench.states() == dict.fromkeys(ALL, "DUE")


def test_a_query_that_was_not_answered_counts_as_no_look_either(bench: Bench, peer: Pacs) -> None:
    bench.promise("query")
    peer.find_status = 0xA700
    for after_s in (0, 1000, 2000):
        bench.ask(after_s=after_s)
    peer.find_status = 0x0000
    for after_s in (3000, 4000):
        bench.ask(after_s=after_s)
    assert bench.states() == DELIVERED
    bench.ask(after_s=5000)
    assert bench.states() == dict.fromkeys(ALL, "DUE")


def test_a_server_that_is_away_is_asked_twice_and_then_first_what_it_was_not_asked(
    bench: Bench,
) -> None:
    """What it never answers keeps nothing else from being asked."""
    with at_web(bench) as server:
        server.search_statuses = {"1.1": 503, "1.2": 503}
        server.found = [instance("1.3")]
        bench.ask()
        assert len(server.searches) == 2
        assert bench.states() == DELIVERED
        bench.ask(after_s=10)
        assert [path[-3:] for path in server.searches[2:]] == ["1.3", "1.1", "1.2"]
        assert bench.ask(after_s=10) == 0
    assert bench.states() == DELIVERED | {"1.3": "COMMITTED"}
    assert bench.reasons() == {"commitment not asked: QIDO-RS: HTTP 503"}


def test_a_result_that_names_no_study_keeps_no_other_from_being_looked_for(bench: Bench) -> None:
    with at_web(bench, "1.2", "1.3") as server:
        server.found = [instance("1.2"), instance("1.3")]
        bench.ask()
    assert bench.states() == ALL | {"1.1": "DELIVERED"}


def test_nothing_more_is_asked_once_the_node_stops(bench: Bench) -> None:
    class Searches(list[str]):
        def append(self, path: str) -> None:
            bench.stop.set()
            super().append(path)

    with at_web(bench) as server:
        server.searches = Searches()
        server.found = [instance("1.1"), instance("1.2")]
        bench.ask()
        assert len(server.searches) == 1
        assert bench.ask(after_s=900) == 0
        bench.stop.clear()
        assert bench.ask(after_s=5) == 2
    assert bench.states()["1.1"] == "COMMITTED"


def test_what_a_server_said_before_a_question_failed_is_committed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Web.page

    def fails_from_then_on(self: Web, path: str) -> list[Json]:
        if "SOPInstanceUID=1.2" in path:
            self.search_status = 503
        return page(self, path)

    with at_web(bench) as server, monkeypatch.context() as patched:
        server.found = [instance(uid) for uid in ("1.1", "1.2", "1.3")]
        patched.setattr(Web, "page", fails_from_then_on)
        bench.ask()
        assert len(server.searches) == 3
        assert bench.states() == {"1.1": "COMMITTED", "1.2": "COMMITTED", "1.3": "DELIVERED"}
        assert bench.ask(after_s=10) == 1


@pytest.mark.parametrize("promised", ["query", "storage_commitment"])
def test_what_goes_wrong_as_it_is_asked_has_it_asked_again_with_growing_delay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, promised: str
) -> None:
    def short(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    bench.promise(promised)
    with monkeypatch.context() as patched:
        patched.setattr("pynetdicom.AE.associate", short)
        bench.ask()
        (reason,) = bench.reasons()
        assert reason.startswith("commitment not asked: no thread was free")
        assert bench.ask(after_s=9) == 0
        assert bench.ask(after_s=10) == 3
        assert bench.ask(after_s=29) == 0
    assert bench.ask(after_s=30) == 3


def test_a_destination_that_is_held_or_rests_is_not_asked(bench: Bench, peer: Pacs) -> None:
    bench.store.note_destination(
        DestinationHealth(name="pacs", failures=5, retry_at=NOW + timedelta(seconds=9)), NOW
    )
    assert bench.ask() == 0
    bench.store.release_destination("pacs", NOW)
    bench.store.hold("pacs", NOW)
    assert bench.ask() == 0
    assert peer.asked == []
    bench.store.release_destination("pacs", NOW)
    peer.reports = [(pacs.BEFORE, {})]
    assert bench.ask() == 3
    assert bench.states() == ALL


def test_a_kept_file_that_is_gone_holds_up_no_other(bench: Bench, peer: Pacs) -> None:
    bench.promise("query")
    peer.holds = ["1.1", "1.3"]
    (second,) = [r for r in bench.store.results(bench.key) if r.sop_instance_uid == "1.2"]
    bench.objects.remove(second.object)
    bench.ask()
    assert bench.states() == {"1.1": "COMMITTED", "1.2": "DELIVERED", "1.3": "COMMITTED"}


def test_a_kept_file_that_is_damaged_holds_up_no_other(bench: Bench, peer: Pacs) -> None:
    bench.promise("query")
    peer.holds = ["1.1", "1.3"]
    for name, damaged in (("1.2", b"not DICOM"), ("1.3", b"")):
        (found,) = [r for r in bench.store.results(bench.key) if r.sop_instance_uid == name]
        bench.objects.local_path(found.object).write_bytes(damaged)
    bench.ask()
    assert bench.states() == {"1.1": "COMMITTED", "1.2": "DELIVERED", "1.3": "DELIVERED"}


def test_only_the_destination_that_was_asked_may_report(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.NEVER, {})]
    bench.destinations["other"] = Destination(
        ae_title="OTHER", host="127.0.0.1", port=peer.port, commitment="storage_commitment"
    )
    bench.restart_scp()
    bench.ask()
    peer.calling = "OTHER"
    assert peer.report(*peer.asked[0], {}) == 0x0115
    assert bench.states() == DELIVERED
    peer.calling = "PACS"
    assert peer.report(*peer.asked[0], {}) == 0x0000
    assert bench.states() == ALL


def test_only_what_a_transaction_asked_about_is_taken_from_its_report(
    bench: Bench, peer: Pacs
) -> None:
    peer.reports = [(pacs.NEVER, {}), (pacs.NEVER, {}), (pacs.NEVER, {})]
    bench.ask(batch=2)
    (first, uids), (second, rest) = peer.asked
    assert (uids, rest) == (["1.1", "1.2"], ["1.3"])
    assert peer.report(second, ["1.1", "1.2"], {}) == 0x0000
    assert bench.states() == DELIVERED
    bench.ask(after_s=600)  # in another transaction; the first one's report comes late
    assert peer.report(first, uids, {}) == 0x0000
    assert bench.states() == {"1.1": "COMMITTED", "1.2": "COMMITTED", "1.3": "DELIVERED"}


def test_each_batch_is_asked_at_its_own_time(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.NEVER, {}), (pacs.NEVER, {})]
    seconds = itertools.count(0, 100)
    bench.ask(batch=2, clock_s=lambda: float(next(seconds)))
    assert bench.due_at("1.1") == NOW + timedelta(seconds=700)  # 600 s after it was asked
    assert bench.due_at("1.3") == NOW + timedelta(seconds=900)


def test_a_query_whose_answers_do_not_end_proves_nothing(bench: Bench, peer: Pacs) -> None:
    bench.promise("query")
    peer.holds, peer.endless = ["1.1"], True
    bench.ask(timeouts=_HASTY)
    assert bench.states() == DELIVERED
    assert bench.reasons() == {"commitment not asked: C-FIND: its answers did not end in time"}


def test_an_old_report_says_nothing_of_what_was_sent_since(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.NEVER, {})] * 2
    bench.ask()
    bench.ask(after_s=600)
    lost = Report(transaction_uid="2.25.2", committed=(), failed={"1.2": 0x0112})
    bench.ledger().take(lost, "PACS")
    bench.deliver(after_s=1000)
    old = Report(transaction_uid="2.25.1", committed=("1.1", "1.2"), failed={})
    bench.ledger().take(old, "PACS")
    assert bench.states() == {"1.1": "COMMITTED", "1.2": "DELIVERED", "1.3": "DELIVERED"}
    bench.ask(after_s=1000)
    assert peer.asked[-1][1] == ["1.2"]  # as it was sent last


def test_what_is_named_as_stored_and_as_failed_has_failed(bench: Bench, peer: Pacs) -> None:
    peer.reports = [(pacs.NEVER, {})]
    bench.ask()
    both = Report(transaction_uid="2.25.1", committed=("1.1", "1.2"), failed={"1.2": 0x0112})
    bench.ledger().take(both, "PACS")
    assert bench.states() == {"1.1": "COMMITTED", "1.2": "DUE", "1.3": "DELIVERED"}
