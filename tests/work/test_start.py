"""A node that starts before its database, and one that is stopped before its model is there."""

import json
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node import config
from dicom_node.work.loading import Loads
from pipeline import testing
from tests.peers import tools
from tests.work import slow_model


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
    pgserver = pytest.importorskip("pgserver")
    folder = tmp_path_factory.mktemp("late")
    server = pgserver.get_server(folder, cleanup_mode="stop")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()
    path = configured(tmp_path, url)
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(path)]
    node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        away = said(node, lambda line: line["event"] == "storage unavailable")
        assert away["error"].startswith("database: ")
        server = pgserver.get_server(folder, cleanup_mode="stop")
        said(node, lambda line: line["event"] == "node started")
        node.send_signal(signal.SIGTERM)
        node.communicate()
        assert node.returncode == 0
    finally:
        node.kill()
        node.wait()
        server.cleanup()


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
