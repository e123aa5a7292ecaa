"""A node under steady load for as long as is said: memory, file handles and threads stay flat.

`make soak` runs it for 30 minutes; VALD_SOAK_MINUTES is how long, and without it nothing is run.
"""

import os
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicom_node import wiring
from tests.faults.hospital import SENDERS, Hospital, children_of, pause_s

MINUTES = float(os.environ.get("VALD_SOAK_MINUTES", "0"))
pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(60 * MINUTES + 900),
]
_WARM_UP = 0.25
"""Of the time: caches fill, the model warms."""
_EVERY_S = 5.0
_MOST_WAITING = 4 * SENDERS
_MOST_MB, _MOST_HANDLES, _MOST_THREADS = 16.0, 2, 1
"""By which one process may hold more in the last third of the steady time than in the first."""
_LEAST_PROCESSES = 3
"""That live all the time: receiver, dispatcher, worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """By one process."""

    memory_mb: float
    handles: int
    threads: int


Sample = dict[int, Held]
"""What each process of the node holds, by its id."""


def sample(place: Hospital) -> Sample:
    assert place.node.process is not None
    pids = [place.node.process.pid, *children_of(place.node)]
    held = ((pid, _held(Path(f"/proc/{pid}"))) for pid in pids)
    return {pid: found for pid, found in held if found is not None}


def _held(process: Path) -> Held | None:
    """None where it has ended: each result is looked at by a process of its own."""
    try:
        status = (process / "status").read_text()
        handles = len(list((process / "fd").iterdir()))
    except OSError:
        return None
    return Held(
        memory_mb=_number("VmRSS", status) / 1024,
        handles=handles,
        threads=_number("Threads", status),
    )


def _number(name: str, status: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", status)
    return int(found[1]) if found else 0


def test_what_each_process_of_the_node_holds_stays_flat(place: Hospital) -> None:
    place.node.start()
    store = wiring.open_kept_store(wiring.read_config(place.node.config, os.environ))
    samples: list[Sample] = []
    ends = time.monotonic() + 60 * MINUTES
    while time.monotonic() < ends:
        while store.waiting() > _MOST_WAITING:  # as fast as the node works, whatever the machine
            pause_s(_EVERY_S)
        place.send(place.expose(SENDERS))
        samples.append(sample(place))
        pause_s(_EVERY_S)
    assert all(place.told.values())
    steady = samples[round(len(samples) * _WARM_UP) :]
    third = len(steady) // 3
    assert third > 0
    lasting = set.intersection(*(set(one) for one in steady))
    assert len(lasting) >= _LEAST_PROCESSES
    print(f"{len(place.told)} films")
    for pid in sorted(lasting):
        first, last = (
            _typical([s[pid] for s in part]) for part in (steady[:third], steady[-third:])
        )
        print(f"{pid}: first {first}, last {last}")
        assert last.memory_mb <= first.memory_mb + _MOST_MB, pid
        assert last.handles <= first.handles + _MOST_HANDLES, pid
        assert last.threads <= first.threads + _MOST_THREADS, pid
    place.demand_nothing_lost_or_doubled()


def _typical(held: list[Held]) -> Held:
    return Held(
        memory_mb=statistics.median(h.memory_mb for h in held),
        handles=round(statistics.median(h.handles for h in held)),
        threads=round(statistics.median(h.threads for h in held)),
    )
