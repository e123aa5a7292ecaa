"""Modalities that send (DCMTK), a node that dies, and two archives (Orthanc): who was told what."""

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node import wiring
from storage.faults import VARIABLE, Point
from storage.jobs import Proof
from storage.store import JobStore
from tests.faults import modalities
from tests.faults.evidence import COMPLETE, Evidence
from tests.faults.modalities import GOES_TO, Sent, by_everyone
from tests.faults.purging import Purging, content
from tests.peers import nodes, orthanc, tools
from tests.peers.nodes import Node
from tests.peers.orthanc import Orthanc

SENDERS = 8
_DIES_WITHIN_S, _STUCK_AFTER_S = 600.0, 600.0
_NEXT_FILMS_S = 15.0
"""A worker needs so long to load its model."""


@dataclass(slots=True, kw_only=True)
class Hospital:
    """What was sent to the node, and whether its sender was ever told success."""

    folder: Path
    node: Node
    archives: Mapping[str, Orthanc]
    purging: Purging
    told: dict[Sent, bool] = field(default_factory=dict)
    sendings: Counter[str] = field(default_factory=Counter)
    """How often a film was sent for the first time, by another sender, and by the same again."""
    _paths: dict[str, Path] = field(default_factory=dict)

    def expose(self, count: int) -> list[Sent]:
        """Films of as many patients, not sent yet."""
        new = dict(modalities.exposed(self.folder) for _ in range(count))
        self._paths.update(new)
        return [Sent(film) for film in new]

    @property
    def films(self) -> list[Sent]:
        """All that were exposed."""
        return [Sent(film) for film in self._paths]

    def send(self, sends: Sequence[Sent]) -> None:
        """Each was sent once, eight at a time, whatever became of it."""
        with ThreadPoolExecutor(SENDERS) as senders:
            for sent, success in zip(sends, senders.map(self._send, sends), strict=True):
                self.sendings[self._before(sent)] += 1
                self.told[sent] = self.told.get(sent, False) or success

    def _before(self, sent: Sent) -> str:
        if sent in self.told:
            return "after success" if self.told[sent] else "after failure"
        known = any(other in self.told for other in by_everyone([sent]))
        return "by another" if known else "first"

    def die_at(self, point: Point, nth: int, send: int) -> Path:
        """The node, down before, ran to this point and was killed there.

        Films were sent to it by everyone until it was: one process alone must come there so many
        times.
        """
        marker = self.folder / f"{point}-{nth}"
        self.node.start(**{VARIABLE: f"{point},{nth},{marker}"})
        deadline = time.monotonic() + _DIES_WITHIN_S
        self.send(by_everyone(self.expose(send)))
        while not self._died_within(_NEXT_FILMS_S):
            assert time.monotonic() < deadline, f"the node never reached {point}"
            self.send(by_everyone(self.expose(send)))
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
        faults = list(self._evidence().faults())
        assert not faults, f"{len(faults)}, such as:\n" + "\n".join(faults[:5])

    def _evidence(self) -> Evidence:
        digests, contents = self._digests(), self.purging.contents(self.node.results())
        return Evidence(
            told=self.told,
            lines=self.node.jobs(limit=100_000),
            made={uid: contents.get(digest, "was lost") for uid, digest in digests.items()},
            held={name: Counter(_held(archive)) for name, archive in self.archives.items()},
        )

    def _digests(self) -> dict[str, str]:
        """SHA-256 of each result that the node knows, by its SOP Instance UID."""
        with self._rows() as store:
            made = [result for job in store.jobs(100_000) for result in store.results(job.key)]
        return {result.sop_instance_uid: result.object.digest for result in made}

    def wait_until_all_is_purged(self) -> None:
        """Nobody needs anything, and so no result is kept: what is asked for now is made again."""

        def nothing_is_left() -> bool:
            now = wiring.now()
            films = store.purgeable_received(now, Proof(), limit=1)
            return not (films or store.purgeable_results(now, Proof(), limit=1))

        with self._rows() as store:
            tools.wait_until(nothing_is_left, _STUCK_AFTER_S, "all to be purged")

    @contextmanager
    def _rows(self) -> Iterator[JobStore]:
        store = wiring.open_kept_store(wiring.read_config(self.node.config, os.environ))
        try:
            yield store
        finally:
            store.close()

    def resend_what_failed(self) -> None:
        """As modalities do; every film was then told success."""
        self.send([sent for sent, success in self.told.items() if not success])
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
        unknown = {sent.film for sent, success in self.told.items() if success} - known
        return [*unknown, *(line for line in lines if line["state"] != COMPLETE)]

    def _send(self, sent: Sent) -> bool:
        return modalities.store(self._paths[sent.film], sent.by, self.node.port)


def _held(archive: Orthanc) -> Iterator[tuple[str, str]]:
    """SOP Instance UID and content of every object there."""
    for part10 in archive.files():
        yield str(dcmread(BytesIO(part10), stop_before_pixels=True).SOPInstanceUID), content(part10)


@contextmanager
def opened(
    folder: Path,
    model: Path,
    database: str,
    workers: int,
    edge: dict[str, Any] | None = None,
) -> Iterator[Hospital]:
    """A hospital whose node is configured and not started; `edge` is more of its section `node`."""
    quick = {
        "timeouts": {"connect_s": 2, "association_s": 5, "response_s": 10},
        "retry": {"first_delay_s": 1, "max_delay_s": 2, "jitter": 0},
        # A report to a dead node is lost: ask again soon.
        "commitment": {"linger_s": 1, "report_within_s": 3},
    }
    commitments = {"pacs": "storage_commitment", "archive": "query"}
    ports = {name: tools.free_port() for name in commitments}
    node = nodes.write_config(
        folder / "node",
        ports["pacs"],
        model=model,
        database=database,
        edge=edge,
        # Deaths here are not the films' fault, and come more often than three times a film.
        work={"workers": workers, "lease_s": 30, "max_attempts": 1000},
        delivery=quick,
        destinations={name: _place(ports[name], how) for name, how in commitments.items()},
        rules=[_rule(sender, name) for sender, name in GOES_TO.items()],
    )
    purging = Purging(config=node.config, notes=folder / "purged")
    with ExitStack() as stack:
        stack.callback(node.cut_power)
        stack.callback(purging.kill)
        archives = {
            name: stack.enter_context(orthanc.running(folder / name, port, reports_to=node.port))
            for name, port in ports.items()
        }
        yield Hospital(folder=folder, node=node, archives=archives, purging=purging)


def _place(port: int, commitment: str) -> dict[str, object]:
    where = {"ae_title": orthanc.AE_TITLE, "host": "127.0.0.1", "port": port}
    return {**where, "commitment": commitment}


def _rule(sender: str, destination: str) -> dict[str, object]:
    """Films of that calling AE title have their results there."""
    return {
        "name": sender.lower(),
        "match": {"CallingAET": sender},
        "results": ["secondary_capture", "structured_report"],
        "destinations": [destination],
    }


def children_of(node: Node) -> list[int]:
    """The process ids of the node's dispatcher and workers, with their decoders.

    Not of the one that multiprocessing has beside them, which does nothing for the node; nor of
    one that has begun this moment, whose arguments the system does not tell yet: it may be either.
    """
    assert node.process is not None
    done = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "-g", str(node.process.pid)],  # whole lines, always
        capture_output=True,
        text=True,
        check=False,
    )
    there = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    return [int(pid) for pid, command in there if "--multiprocessing-fork" in command]


def says(place: Hospital, words: str, times: int = 1) -> bool:
    """Whether its node's log has these words, so often."""
    return place.node.log().count(words) >= times


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
