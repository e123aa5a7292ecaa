"""What is in hand when the node, or one of its processes, is told to stop or dies."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml

from dicom_node import config, node, processes, wiring
from dicom_node.config import NodeConfig
from pipeline import testing
from storage import migrate
from storage.sql import SqlJobStore
from storage.states import DeliveryState, JobState
from tests.delivery import pacs
from tests.delivery.parcels import make_due
from tests.peers import tools
from tests.peers.nodes import Node
from tests.storage.samples import submitted

UIDS = [f"1.2.{n}" for n in range(1, 13)]
_HOURS_S = 7200.0


def configured(folder: Path, port: int) -> NodeConfig:
    keys = {
        "node": {"accept": "any", "host": "127.0.0.1", "port": tools.free_port()},
        "storage": {"database": "sqlite:///jobs.db", "objects": "objects"},
        "model": {"path": "model", "device": "cpu"},
        "destinations": {
            "pacs": {
                "ae_title": "PACS",
                "host": "127.0.0.1",
                "port": port,
                "confirm_study": False,
            }
        },
        "rules": [{"name": "all", "results": ["secondary_capture"], "destinations": ["pacs"]}],
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(keys))
    return config.load(path, {})


@contextmanager
def dispatching(settings: NodeConfig) -> Iterator[BaseProcess]:
    context = multiprocessing.get_context("spawn")
    dispatcher = context.Process(target=node.dispatch, args=(settings, "m" * 64))
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        dispatcher.kill()
        dispatcher.join()


def test_a_dispatcher_told_to_stop_begins_no_more_results_and_the_next_sends_each_once(
    tmp_path: Path,
) -> None:
    with pacs.running() as there:
        there.answers = [pacs.SLOWLY] * len(UIDS)
        settings = configured(tmp_path, there.port)
        migrate.up(settings.storage.database)
        store = SqlJobStore(settings.storage.database)
        key = make_due(store, wiring.open_objects(settings, store), UIDS)
        with dispatching(settings) as dispatcher:
            tools.wait_until(lambda: len(there.received) >= 2, 60, "the batch to be under way")
            dispatcher.terminate()
            dispatcher.join(20)
            assert dispatcher.exitcode == 0
        sent = len(there.received)
        assert sent <= 4, "one may be under way when it is told, and one more as it is told"
        due = store.deliveries(key)
        assert Counter((str(d.state), d.attempts) for d in due) == {
            ("DELIVERED", 1): sent,
            ("DUE", 0): len(UIDS) - sent,
        }
        there.answers.clear()
        with dispatching(settings):
            tools.wait_until(
                lambda: {d.state for d in store.deliveries(key)} == {DeliveryState.DELIVERED},
                60,
                "the rest to arrive",
            )
        assert Counter(uid for uid, _ in there.received) == dict.fromkeys(UIDS, 1)
        store.close()


_IMPATIENT = """
import sys
from functools import partial
from pathlib import Path
from dicom_node import node, wiring
from tests.work import slow_model

node._CHILD_GRACE_S = 1.0
node.work = partial(slow_model.work, told=sys.argv[2])
sys.exit(node.serve(Path(sys.argv[1]), {}))
"""
"""A node whose children have a second to end, and whose worker takes no job: it is loading."""


@contextmanager
def serving(settings: NodeConfig, folder: Path) -> Iterator[tuple[Node, int]]:
    """A node, and the process id of its worker, which loads its model and has no row locked."""
    testing.write_tiny_model(folder / "model")
    loading = folder / "loading"
    command = [sys.executable, "-c", _IMPATIENT, str(folder / "config.yaml"), str(loading)]
    with (folder / "node.log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    there = Node(folder=folder, port=settings.node.port, process=process)
    try:
        tools.wait_until(lambda: "node started" in there.log(), 120, "the node to start")
        tools.wait_until(loading.exists, 120, "its worker")
        yield there, int(loading.read_text())
    finally:
        there.cut_power()


def in_hand(settings: NodeConfig, store: SqlJobStore, key: str, pid: int) -> None:
    """The process has claimed the job, for hours."""
    submitted(store, key)
    name = f"{processes.owner_of(settings.node.port, pid)}worker-1"
    job = store.claim(name, datetime.now(UTC), _HOURS_S)
    assert job is not None
    assert job.key == key


@pytest.fixture
def settings(tmp_path: Path) -> NodeConfig:
    return configured(tmp_path, 1)


@pytest.fixture
def store(settings: NodeConfig) -> Iterator[SqlJobStore]:
    migrate.up(settings.storage.database)
    opened = SqlJobStore(settings.storage.database)
    yield opened
    opened.close()


def test_what_a_child_had_in_hand_when_it_died_is_free_at_once_and_an_attempt_spent(
    settings: NodeConfig, store: SqlJobStore, tmp_path: Path
) -> None:
    with serving(settings, tmp_path) as (_, victim):
        in_hand(settings, store, "k1", victim)
        os.kill(victim, signal.SIGKILL)
        tools.wait_until(lambda: store.job("k1").state is JobState.RECEIVED, 60, "the job")
        assert store.job("k1").attempts == 1


def test_what_a_child_had_in_hand_that_did_not_stop_is_free_and_no_attempt_spent(
    settings: NodeConfig, store: SqlJobStore, tmp_path: Path
) -> None:
    with serving(settings, tmp_path) as (there, hanging):
        in_hand(settings, store, "k1", hanging)
        os.kill(hanging, signal.SIGSTOP)
        assert there.stop() == 0
        assert "process killed" in there.log()
        assert (store.job("k1").state, store.job("k1").attempts) == (JobState.RECEIVED, 0)
