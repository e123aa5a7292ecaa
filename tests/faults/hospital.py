"""Modalities that send (DCMTK), a node that dies, and a PACS (Orthanc): who was told what."""

import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from storage.faults import VARIABLE, Point
from tests.peers import films, nodes, orthanc, tools
from tests.peers.nodes import Node
from tests.peers.orthanc import Orthanc

SENDERS = 8
_SIDE = 256
_DIES_WITHIN_S, _STUCK_AFTER_S = 600.0, 600.0
_NEXT_FILMS_S = 15.0
"""A worker needs so long to load its model."""
_COMPLETE = {"COMMITTED"}
_RESULTS = 2
"""Of each film: a Secondary Capture and a Structured Report."""


@dataclass(slots=True, kw_only=True)
class Hospital:
    """What was sent to the node, and whether its sender was told success."""

    folder: Path
    node: Node
    pacs: Orthanc
    told: dict[str, bool] = field(default_factory=dict)
    _paths: dict[str, Path] = field(default_factory=dict)

    def expose(self, count: int) -> list[str]:
        """Films of as many patients, not sent yet; their SOP Instance UIDs."""
        return [self._exposed() for _ in range(count)]

    def send(self, uids: Sequence[str]) -> None:
        """Each film was sent once, eight at a time, whatever became of it."""
        with ThreadPoolExecutor(SENDERS) as modalities:
            for uid, success in zip(uids, modalities.map(self._send, uids), strict=True):
                self.told[uid] = self.told.get(uid, False) or success

    def die_at(self, point: Point, nth: int, send: int) -> Path:
        """The node, down before, ran to this point and was killed there.

        Films were sent to it until it was: one process alone must come there so many times.
        """
        marker = self.folder / f"{point}-{nth}"
        self.node.start(**{VARIABLE: f"{point},{nth},{marker}"})
        deadline = time.monotonic() + _DIES_WITHIN_S
        self.send(self.expose(send))
        while not self._died_within(_NEXT_FILMS_S):
            assert time.monotonic() < deadline, f"the node never reached {point}"
            self.send(self.expose(send))
        return marker

    def _died_within(self, seconds: float) -> bool:
        assert self.node.process is not None
        try:
            self.node.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def demand_nothing_lost_or_doubled(self) -> None:
        """What was accepted is complete, once; what was not is unknown or complete."""
        self.wait_for_the_end()
        lines = self.node.jobs(limit=100_000)
        complete = {line["source_sop_instance_uid"] for line in lines}
        assert {line["state"] for line in lines} <= _COMPLETE
        assert len(lines) == len(complete)
        assert {uid for uid, success in self.told.items() if success} <= complete
        promised = [d["sop_instance_uid"] for line in lines for d in line["deliveries"]]
        assert len(promised) == len(complete) * _RESULTS
        assert sorted(self.pacs.uids()) == sorted(promised)
        made = {_content(path.read_bytes()) for path in self.node.results()}
        assert {_content(held) for held in self.pacs.files()} <= made

    def resend_what_failed(self) -> None:
        """As modalities do; every film was then told success."""
        self.send([uid for uid, success in self.told.items() if not success])
        assert all(self.told.values())

    def wait_for_the_end(self) -> None:
        """Every film is complete. However many there are: none is stuck while some become so."""
        while waiting := self._open():

            def fewer(than: int = len(waiting)) -> bool:
                return len(self._open()) < than

            try:
                tools.wait_until(fewer, _STUCK_AFTER_S, "a film to be complete", every_s=0.5)
            except pytest.fail.Exception:
                pytest.fail(f"stuck: {waiting[:5]}; the log ends: {self.node.log()[-3000:]}")

    def _open(self) -> list[object]:
        """Accepted films that the node does not know, and lines of what is not complete."""
        lines = self.node.jobs(limit=100_000)
        known = {line["source_sop_instance_uid"] for line in lines}
        unknown = {uid for uid, success in self.told.items() if success} - known
        return [*unknown, *(line for line in lines if line["state"] not in _COMPLETE)]

    def _exposed(self) -> str:
        pixels = (films.chest_like(_SIDE) * 4095).round().astype("<u2").tobytes()
        ds = films.dx(Rows=_SIDE, Columns=_SIDE, PixelData=pixels, PatientID=generate_uid()[-16:])
        self._paths[ds.SOPInstanceUID] = films.written(ds, self.folder)
        return str(ds.SOPInstanceUID)

    def _send(self, uid: str) -> bool:
        """Whether storescu says that it was answered 0x0000."""
        place = ("-aec", "VALD", "127.0.0.1", str(self.node.port))
        command = [tools.find("storescu"), "-v", "-to", "10", *place, str(self._paths[uid])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return "Received Store Response (Success)" in done.stdout + done.stderr


def _content(part10: bytes) -> str:
    """A digest of the data set: who writes a file puts a meta group of its own before it.

    That begins after preamble and prefix with its own length (PS3.10 7.1), a UL of 12 bytes.
    """
    length = int.from_bytes(part10[140:144], "little")
    return hashlib.sha256(part10[144 + length :]).hexdigest()


@contextmanager
def opened(folder: Path, model: Path, database: str, workers: int) -> Iterator[Hospital]:
    """A hospital whose node is configured and not started."""
    quick = {
        "timeouts": {"connect_s": 2, "association_s": 5, "response_s": 10},
        "retry": {"first_delay_s": 1, "max_delay_s": 2, "jitter": 0},
        # A report to a dead node is lost: ask again soon.
        "commitment": {"linger_s": 1, "report_within_s": 3},
    }
    pacs_port = tools.free_port()
    pacs = {
        "ae_title": orthanc.AE_TITLE,
        "host": "127.0.0.1",
        "port": pacs_port,
        "commitment": "storage_commitment",
    }
    node = nodes.write_config(
        folder / "node",
        pacs_port,
        model=model,
        database=database,
        # Deaths here are not the films' fault, and come more often than three times a film.
        work={"workers": workers, "lease_s": 30, "max_attempts": 1000},
        delivery=quick,
        destinations={"pacs": pacs},
    )
    with orthanc.running(folder / "orthanc", pacs_port, reports_to=node.port) as archive:
        try:
            yield Hospital(folder=folder, node=node, pacs=archive)
        finally:
            node.cut_power()


def children_of(node: Node) -> list[int]:
    """The process ids of the node's dispatcher and workers, with their decoders."""
    assert node.process is not None
    done = subprocess.run(
        ["ps", "-o", "pid=", "-g", str(node.process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in done.stdout.split() if int(pid) != node.process.pid]


def end(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """The process is sent the signal, unless it ended by itself just now."""
    with suppress(ProcessLookupError):
        os.kill(pid, how)


def pause(chance: random.Random, longest_s: float) -> None:
    """A random while: what happens meanwhile is what is tested."""
    pause_s(chance.uniform(0, longest_s))


def pause_s(seconds: float) -> None:
    """So long."""
    threading.Event().wait(seconds)
