"""Machines that share a database say where their clocks do not agree."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from dicom_node import config, node
from dicom_node.work import clocks
from storage.memory import MemoryJobStore
from storage.objects import LocalObjectStore
from tests.delivery.parcels import make_due
from tests.storage.samples import NOON


class Elsewhere(MemoryJobStore):
    """A store whose machine's clock differs from ours."""

    def __init__(self, ahead_s: float) -> None:
        super().__init__()
        self._ahead_s = ahead_s

    def ahead_s(self, now: datetime) -> float:  # noqa: ARG002
        return self._ahead_s


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [(0, ""), (5, ""), (-5, ""), (90, "is 90 s ahead of that"), (-90, "is 90 s behind that")],
)
def test_what_is_more_than_seconds_apart_is_told(ahead_s: float, said: str) -> None:
    store = Elsewhere(ahead_s)
    found = clocks.disagreement(store, NOON)
    assert bool(found) == bool(said)
    assert said in found
    with capture_logs() as logs:
        clocks.warn(store, NOON)
    assert [line["event"] for line in logs] == ["clocks disagree"] * bool(said)


@pytest.mark.parametrize(("ahead_s", "number"), [(0, 0), (50, 0), (70, 1)])
def test_what_another_machine_has_put_off_is_not_taken_for_that_of_a_clock_set_back(
    tmp_path: Path, ahead_s: float, number: int
) -> None:
    """It is a little ahead, and has asked just now."""
    store, theirs = MemoryJobStore(), NOON + timedelta(seconds=ahead_s)
    make_due(store, LocalObjectStore(tmp_path), ["1.1"])
    (parcel,) = store.claim_deliveries("pacs", "s", NOON, 60, 1)
    store.delivered(parcel, NOON, "", promised=True)
    store.ask("pacs", "2.25.1", theirs, theirs + timedelta(hours=1), 1)
    with capture_logs() as logs:
        clocks.bring_forward(store, 3600, NOON)
    assert len(logs) == number
    assert len(store.ask("pacs", "2.25.2", NOON, theirs, 1)) == number


def test_a_dispatcher_says_at_its_start_what_waits_for_nobody(tmp_path: Path) -> None:
    keys = {
        "node": {"accept": "any"},
        "storage": {"database": "sqlite:///jobs.db", "objects": "objects"},
        "model": {"path": "model", "device": "cpu"},
        "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}},
        "rules": [{"name": "all", "results": ["secondary_capture"], "destinations": ["pacs"]}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(keys))
    settings = config.load(tmp_path / "config.yaml", {})
    store = Elsewhere(90)
    make_due(store, LocalObjectStore(tmp_path / "objects"), ["1.1", "1.2"], ("pacs", "renamed"))
    with capture_logs() as logs:
        node._warn_at_start(settings, store)
    assert [(line["event"], line.get("destination")) for line in logs] == [
        ("clocks disagree", None),
        ("destination is not configured", "renamed"),
    ]
    assert logs[1]["results_waiting"] == 2
