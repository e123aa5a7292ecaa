"""A node that starts before its database or while memory is short, or stops before its model."""

import json
import multiprocessing
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node import config, processes
from dicom_node.work.loading import Loads
from pipeline import testing
from storage import migrate
from storage.sql import SqlJobStore
from storage.states import JobState
from tests import postgres
from tests.peers import tools
from tests.storage.samples import NOON, submitted
from tests.work import poor, slow_model


def configured(folder: Path, database: str) -> Path:
    testing.write_tiny_model(folder / "model")
    path = folder / "config.yaml"
    keys = {
        "node": {"accept": "any", "host": "127.0.0.1", "port": tools.free_port()},
        "storage": {"database": database, "objects": "var/objects"},
        "model": {"path": "model", "device": "cpu"},
        "destinations": {"pacs": {"ae_title": "P", "host": "127.0.0.1", "port": 1}},
        "rules": [{"name": "all", "results": ["secondary_capture"], "destinations": ["pacs"]}],
    }
    path.write_text(yaml.safe_dump(keys))
    return path


def said(node: "subprocess.Popen[str]", wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first line of its log that is wanted; the test's own time-out ends the wait."""
    assert node.stderr is not None
    for line in node.stderr:
        if line.startswith("{") and wanted(found := json.loads(line)):
            return dict(found)
    raise AssertionError("the node has ended")


@pytest.mark.postgres
def test_a_node_waits_for_a_database_that_comes_up_after_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("late")
    server = postgres.started(folder)
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()
    path = configured(tmp_path, url)
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(path)]
    node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        away = said(node, lambda line: line["event"] == "storage unavailable")
        assert away["error"].startswith("database: ")
        server = postgres.started(folder)
        said(node, lambda line: line["event"] == "node started")
        node.send_signal(signal.SIGTERM)
        node.communicate()
        assert node.returncode == 0
    finally:
        node.kill()
        node.wait()
        server.cleanup()


_SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from dicom_node import config, node

path = Path(sys.argv[1])
config.load(path, {})
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (6 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
sys.exit(node.serve(path, {}))
"""
"""Its model is sound, and has files of 14 MB, which are mapped as a whole."""


def test_a_node_that_starts_while_memory_is_short_waits_for_it_and_blames_no_model(
    tmp_path: Path,
) -> None:
    path = configured(tmp_path, "sqlite:///var/vald.db")
    keys = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**keys, "model": {"path": "embedded", "device": "cpu"}}))
    command = [sys.executable, "-c", _SHORT_OF_MEMORY, str(path)]
    node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        short = said(node, lambda line: line["event"] == "not started yet")
        assert short["reason"].startswith(
            "the model folder was not checked: too little memory was free; free some, or give it"
        )
        resource.prlimit(node.pid, resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS))
        said(node, lambda line: line["event"] == "node started")
        node.send_signal(signal.SIGTERM)
        node.communicate()
        assert node.returncode == 0
    finally:
        node.kill()
        node.wait()


def test_a_film_that_a_whole_node_dies_of_fails_in_the_end(tmp_path: Path) -> None:
    path = configured(tmp_path, "sqlite:///var/vald.db")
    settings = config.load(path, {})
    migrate.up(settings.storage.database)
    store, earlier = SqlJobStore(settings.storage.database), processes.owners(settings.node.port)
    submitted(store, "k1")
    store.claim(f"{earlier}7/worker-1", NOON, 600)
    store.reclaim(NOON, 9, earlier)
    store.claim(f"{earlier}8/worker-1", NOON, 600)
    submitted(store, "k2")
    store.claim(f"{earlier}8/worker-2", NOON, 600)
    path.write_text(
        yaml.safe_dump({**yaml.safe_load(path.read_text()), "work": {"max_attempts": 2}})
    )
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(path)]
    node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said(node, lambda line: line["event"] == "node started")
        job = store.job("k1")
        assert (job.state, job.error) == (JobState.FAILED, "its worker died 2 times")
        # Its worker finds that no file is there, as soon as it is ready.
        assert "worker died" not in store.job("k2").error
    finally:
        node.kill()
        node.wait()
        store.close()


def test_a_worker_without_a_file_handle_says_so_and_does_not_end_the_node_that_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = config.load(configured(tmp_path, "sqlite:///var/vald.db"), {})
    loads = Loads()
    arguments = (settings, loads)
    worker = multiprocessing.get_context("spawn").Process(target=poor.work, args=arguments)
    worker.start()
    worker.join(240)  # a busy machine takes its time to import
    assert worker.exitcode == 1  # and is started again, after a pause
    said = capfd.readouterr().err
    assert "the model folder was not checked: no file handle was free; raise the limit" in said
    assert "Traceback" not in said
    loads.demand_none_refused()


def test_a_worker_that_is_told_to_stop_while_its_model_loads_ends_at_once(tmp_path: Path) -> None:
    settings = config.load(configured(tmp_path, "sqlite:///var/vald.db"), {})
    loading = tmp_path / "loading"
    arguments = (settings, Loads(), str(loading))
    worker = multiprocessing.get_context("spawn").Process(target=slow_model.work, args=arguments)
    worker.start()
    try:
        tools.wait_until(loading.exists, 60, "the load to begin")
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == -signal.SIGTERM
    finally:
        worker.kill()
        worker.join()
