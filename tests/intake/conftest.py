"""A receiver on a port of the system's choice, with real stores behind it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node.config import Node
from dicom_node.intake.intake import Intake
from dicom_node.intake.pressure import Pressure
from dicom_node.intake.scp import Scp
from storage.jobs import NewReceived, Received
from storage.memory import MemoryJobStore
from storage.objects import LocalObjectStore, ObjectStore
from storage.store import JobStore

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A running SCP and what it writes to."""

    scp: Scp
    store: JobStore
    objects: ObjectStore
    folder: Path

    @property
    def port(self) -> int:
        return self.scp.port


class GatedStore(MemoryJobStore):
    """A slow database: a write begins, and ends when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def receive(self, new: NewReceived) -> Received:
        self.begun.set()
        assert self.go_on.wait(30)
        return super().receive(new)


Start = Callable[..., Receiver]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a receiver; settings of the node and stores may be given."""
    running: list[Scp] = []

    def run(
        *,
        store: JobStore | None = None,
        objects: ObjectStore | None = None,
        pressure: Pressure | None = None,
        **settings: object,
    ) -> Receiver:
        store = store or MemoryJobStore()
        objects = objects or LocalObjectStore(tmp_path / "objects")
        values = {"host": "127.0.0.1", "port": 0, "accept": "any", **settings}
        intake = Intake(store, objects, lambda: NOW, pressure)
        scp = Scp(Node.model_validate(values), intake)
        scp.start()
        running.append(scp)
        return Receiver(scp=scp, store=store, objects=objects, folder=tmp_path / "objects")

    yield run
    for scp in running:
        scp.stop()


@pytest.fixture
def receiver(start: Start) -> Receiver:
    return start()
