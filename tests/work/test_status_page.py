"""What the status page says, to people, to monitors and to probes."""

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog.testing

from dicom_node.config import Destination, DicomWeb
from dicom_node.work import overview, reconcile
from dicom_node.work.overview import Overview, Places
from dicom_node.work.reconcile import Reconciler
from dicom_node.work.status_page import About, StatusPage
from storage.errors import StoreUnavailableError
from storage.jobs import DestinationHealth
from storage.memory import MemoryJobStore
from storage.objects import MemoryObjectStore
from tests.peers import tools
from tests.storage.samples import NOON, after, produced, running, submitted

PLACES: Places = {
    "pacs": Destination(ae_title="PACS", host="10.0.0.5", port=104),
    "cloud": DicomWeb(url="https://vald:s3@cret@pacs.hospital/dicom-web"),
}
ABOUT = About(version="1.2", model="m" * 64, ae_title="VALD")


class Bench:
    """A page over a store in memory, which waits so long for a question, and for the store."""

    def __init__(self, folder: Path, patience_s: float = 30) -> None:
        self.store, self.objects = MemoryJobStore(), MemoryObjectStore(folder, 5 << 20)
        self.away, self.trouble = False, ""
        self.fault: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.page = StatusPage(("127.0.0.1", 0), ABOUT, self.look, patience_s)
        self.page.start()

    def look(self) -> Overview:
        self.answers.wait(60)
        if self.fault is not None:
            raise self.fault
        if self.away:
            raise StoreUnavailableError("database: db.hospital does not answer")
        return overview.look(self.store, self.objects, PLACES, after(60), self.trouble)

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def reconcile(self) -> None:
        reconciler = Reconciler(
            store=self.store, objects=self.objects, promising=frozenset(), known=frozenset()
        )
        reconcile.log_daily(reconciler, self.store, lambda: after(7200))


@contextmanager
def answering(made: Bench) -> Iterator[Bench]:
    yield made
    made.answers.set()
    made.page.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with answering(Bench(tmp_path)) as made:
        yield made


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Bench]:
    """Its page waits for a second."""
    with answering(Bench(tmp_path, patience_s=1)) as made:
        yield made


def test_monitors_are_told_in_json_how_the_node_is_doing(bench: Bench) -> None:
    produced(bench.store, "k1")
    running(bench.store, "k2")
    submitted(bench.store, "k3", created_s=5)
    resting = DestinationHealth(
        name="pacs", failures=5, retry_at=after(90), reason="cannot connect"
    )
    bench.store.note_destination(resting, NOON)
    bench.reconcile()
    status, text = bench.get("/status.json")
    said = json.loads(text)
    pacs, cloud, archive = said.pop("destinations")
    assert status == 200
    assert said == {
        "at": "2026-03-01T12:01:00+00:00",
        "version": "1.2",
        "model": "m" * 64,
        "model_trouble": None,
        "ae_title": "VALD",
        "waiting": 2,
        "jobs": {"PRODUCED": 1, "RECEIVED": 1, "RUNNING": 1},
        "oldest_open_job": "2026-03-01T12:00:00+00:00",
        "free_mb": 5,
        "reconciled": {
            "at": "2026-03-01T14:00:00+00:00",
            "counts": {"complete": 0, "not_analysed": 0, "under_way": 0, "missing": 3},
            "missing": ["k3", "k2", "k1"],
        },
    }
    assert (pacs["name"], pacs["state"], pacs["waiting"], pacs["retry_at"]) == (
        "pacs",
        "resting",
        2,
        "2026-03-01T12:01:30+00:00",
    )
    assert (cloud["place"], cloud["state"]) == ("https://pacs.hospital/dicom-web", "well")
    assert (archive["name"], archive["state"], archive["waiting"]) == ("archive", "unknown", 2)


def test_people_are_told_the_same_in_a_page_without_what_is_a_patients(bench: Bench) -> None:
    produced(bench.store, "k1")
    bench.reconcile()
    status, text = bench.get("/")
    assert status == 200
    for word in ("<td>pacs", "<td>PACS", "<td>well", "oldest open job", "<td>k1"):
        assert word in text
    assert "1.2.1" not in text  # the film's UID
    assert "CR1" not in text


def test_a_model_that_no_worker_can_load_is_told_with_its_reason(bench: Bench) -> None:
    bench.trouble = "model: holds unet/a.bin: pickled weights"
    assert json.loads(bench.get("/status.json")[1])["model_trouble"] == bench.trouble
    assert f"<th>model trouble<td>{bench.trouble}" in bench.get("/")[1]
    assert bench.get("/healthz") == (200, "ok\n")  # films are taken; a restart would not mend it


def test_words_from_elsewhere_are_no_html(bench: Bench) -> None:
    health = DestinationHealth(name="pacs", failures=1, reason="<script>alert(1)</script>")
    bench.store.note_destination(health, NOON)
    assert "<script>" not in bench.get("/")[1]


def test_a_probe_is_told_whether_the_database_answers_and_no_more(bench: Bench) -> None:
    assert bench.get("/healthz") == (200, "ok\n")
    bench.away = True
    for path in ("/healthz", "/status.json", "/"):
        assert bench.get(path) == (503, "the database is away: see the log\n")
    assert bench.get("/etc/passwd")[0] == 404


def test_a_probe_does_not_wait_for_a_slow_database_for_ever(hasty: Bench) -> None:
    hasty.answers.clear()
    for _ in range(2):
        assert hasty.get("/healthz") == (503, "the database is away: see the log\n")
    assert hasty.get("/nowhere")[0] == 404
    hasty.answers.set()
    tools.wait_until(lambda: hasty.get("/healthz") == (200, "ok\n"), 30, "the page to see it")


def connected(bench: Bench) -> socket.socket:
    return socket.create_connection(("127.0.0.1", bench.page.port), timeout=30)


def test_who_hangs_up_leaves_nothing_in_the_log(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.answers.clear()  # so that all have gone when they are answered
    with structlog.testing.capture_logs() as log:
        for _ in range(20):
            with connected(bench) as asking:
                asking.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert bench.get("/nowhere")[0] == 404  # the last has been accepted
        bench.answers.set()
        ended()
    assert (log, capfd.readouterr().err) == ([], "")


def ended() -> None:
    """Every request has come to its end."""
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(30)


def test_what_goes_wrong_is_told_in_the_log_alone(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.fault = OverflowError()
    with structlog.testing.capture_logs() as log:
        with pytest.raises(http.client.RemoteDisconnected):
            bench.get("/")
        ended()
    assert [line["event"] for line in log] == ["status page failed"]
    assert capfd.readouterr().err == ""


def test_connections_are_bounded_in_number(bench: Bench) -> None:
    idle = [connected(bench) for _ in range(64)]
    with connected(bench) as beyond:
        beyond.settimeout(5)  # less than any patience of the page
        assert beyond.recv(1) == b""
    for one in idle:
        one.close()
    ended()
    assert bench.get("/healthz") == (200, "ok\n")


def test_who_lets_its_question_drip_is_hung_up_on(hasty: Bench) -> None:
    """Else 64 of them would hold every connection that there is."""
    began_s = time.monotonic()
    with connected(hasty) as asking:
        asking.settimeout(0.2)
        while time.monotonic() - began_s < 8 and drips_on(asking):
            pass
    assert time.monotonic() - began_s < 5
    ended()
    tools.wait_until(lambda: hasty.get("/healthz") == (200, "ok\n"), 30, "the page to answer")


def drips_on(asking: socket.socket) -> bool:
    """One byte more is taken."""
    try:
        asking.sendall(b"G")
        return asking.recv(1 << 16) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
