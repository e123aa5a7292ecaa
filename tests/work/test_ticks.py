"""What the dispatcher does again and again: each tick, as it is wired, does its work."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from dicom_node import config, node, wiring
from dicom_node.config import NodeConfig
from dicom_node.work import reconcile
from dicom_node.work.scheduler import Tick
from storage.jobs import Decision, ObjectRef, Received
from storage.memory import MemoryJobStore
from storage.objects import ObjectStore
from storage.states import JobState
from tests.delivery.parcels import make_due
from tests.storage.samples import film, submitted

_KEYS = {
    "node": {"accept": "any"},
    "storage": {"database": "sqlite:///jobs.db", "objects": "objects"},
    "model": {"path": "model", "device": "cpu"},
    "destinations": {
        "pacs": {
            "ae_title": "PACS",
            "host": "127.0.0.1",
            "port": 1,
            "commitment": "storage_commitment",
        },
        "archive": {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 1},
    },
    "rules": [{"name": "all", "results": ["secondary_capture"], "destinations": ["pacs"]}],
    "retention": {"received_days": 30, "results_days": 30, "after": "delivered"},
    "work": {"reconcile_at": "03:21"},
}


class Bench:
    """The ticks of a configuration, with empty rows and a folder for objects."""

    def __init__(self, folder: Path) -> None:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(_KEYS))
        self.settings: NodeConfig = config.load(path, {})
        self.store, self.folder = MemoryJobStore(), folder / "objects"
        self.objects: ObjectStore = wiring.open_objects(self.settings, self.store)
        made = node.ticks(self.settings, self.store, self.objects, "m" * 64, threading.Event())
        self.ticks: dict[str, Tick] = {tick.name: tick for tick in made}

    def receive(self, decision: str, days_ago: float) -> Received:
        """A kept film that came so long ago; undecided where `decision` is empty."""
        came = wiring.now() - timedelta(days=days_ago)
        kept = self.objects.keep(f"received/{days_ago}.dcm", b"no film")
        new = replace(film(f"1.2.{days_ago}"), object=kept, received_at=came)
        received = self.store.receive(new)
        if decision:
            self.store.route(received.number, Decision(text=decision), None)
        return received

    def age(self, ref: ObjectRef) -> None:
        os.utime(self.folder / ref.name, (0, 0))

    def files(self) -> list[str]:
        every = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.name for path in every if path.name != ".vald-objects")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_each_is_there_and_due_when_it_should_be(bench: Bench) -> None:
    assert {name: tick.at or tick.every_s for name, tick in bench.ticks.items()} == {
        "route": 0.25,
        "deliver pacs": 0.5,
        "deliver archive": 0.5,
        "commit pacs": 1.0,
        "reclaim": 5.0,
        "sweep": 3600.0,
        "orphans": 21_600.0,
        "purge": "*:17",
        "clock": 600.0,
        "clock set back": 60.0,
        "reconcile": "03:21",
        "reconcile if missed": 60.0,
    }


def test_purge_removes_what_is_older_than_the_configuration_says(bench: Bench) -> None:
    bench.receive("not analysed: lateral", 31)
    bench.receive("not analysed: lateral", 29)
    bench.ticks["purge"].run()
    assert bench.files() == ["29.dcm"]


@pytest.mark.parametrize("name", ["reconcile", "reconcile if missed"])
def test_reconcile_keeps_an_account_of_what_it_found(bench: Bench, name: str) -> None:
    bench.receive("not analysed: lateral", 0.5)
    bench.ticks[name].run()
    found = reconcile.account(bench.store)
    assert found is not None
    assert found.counts["not_analysed"] == 1


def test_what_was_reconciled_today_is_not_missed(bench: Bench) -> None:
    bench.ticks["reconcile"].run()
    first = reconcile.account(bench.store)
    bench.ticks["reconcile if missed"].run()
    assert reconcile.account(bench.store) == first


def test_route_decides_about_what_came(bench: Bench) -> None:
    bench.receive("", 0)
    bench.ticks["route"].run()
    assert bench.store.unrouted(9) == []


def test_reclaim_frees_what_a_worker_held_too_long(bench: Bench) -> None:
    submitted(bench.store)
    bench.store.claim("w", wiring.now() - timedelta(hours=1), 60)
    bench.ticks["reclaim"].run()
    assert bench.store.job("k1").state is JobState.RECEIVED


def unfinished(bench: Bench) -> ObjectRef:
    part = bench.folder / "results" / "half.part"
    part.parent.mkdir()
    part.write_bytes(b"x")
    return ObjectRef(name="results/half.part", digest="", size_bytes=1)


def without_a_row(bench: Bench) -> ObjectRef:
    return bench.objects.keep("received/orphan.dcm", b"x")


@pytest.mark.parametrize(("name", "left"), [("sweep", unfinished), ("orphans", without_a_row)])
def test_what_was_left_over_long_ago_is_swept(
    bench: Bench, name: str, left: Callable[[Bench], ObjectRef]
) -> None:
    ref = left(bench)
    bench.ticks[name].run()
    assert len(bench.files()) == 1
    bench.age(ref)
    bench.ticks[name].run()
    assert bench.files() == []


def test_what_a_clock_that_was_ahead_made_due_is_sent_once_it_was_set_back(bench: Bench) -> None:
    longest = timedelta(seconds=bench.settings.delivery.longest_wait_s)
    assert longest == timedelta(minutes=72)  # an hour, and a fifth of it
    make_due(bench.store, bench.objects, ["1.1", "1.2"])
    ahead, within = bench.store.claim_deliveries("pacs", "s", wiring.now(), 60, 9)
    bench.store.postpone(ahead, wiring.now() + timedelta(days=3650), "busy")
    bench.store.postpone(within, wiring.now() + longest - timedelta(minutes=1), "busy")
    bench.ticks["clock set back"].run()
    (parcel,) = bench.store.claim_deliveries("pacs", "s", wiring.now(), 60, 9)
    assert parcel.result == ahead.result


def test_deliver_sends_what_is_due(bench: Bench) -> None:
    """Nobody listens there, and the result has a reason to wait."""
    key = make_due(bench.store, bench.objects, ["1.1"])
    bench.ticks["deliver pacs"].run()
    (waiting,) = bench.store.deliveries(key)
    assert waiting.reason
    assert waiting.attempts == 1
