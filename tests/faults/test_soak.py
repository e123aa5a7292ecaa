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

from tests.faults.hospital import SENDERS, Hospital, children_of, pause_s

MINUTES = float(os.environ.get("VALD_SOAK_MINUTES", "0"))
pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(60 * MINUTES + 900),
]
_WARM_UP = 0.25
"""Of the time: caches fill, the model warms."""
_EVERY_S = 5.0
_GROWTH, _SPARE_MB, _SPARE_HANDLES, _SPARE_THREADS = 1.1, 32, 16, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What all processes of the node hold together."""

    memory_mb: float
    handles: int
    threads: int


def sample(place: Hospital) -> Sample:
    assert place.node.process is not None
    pids = [place.node.process.pid, *children_of(place.node)]
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return Sample(
        memory_mb=sum(_number("VmRSS", status) for status in statuses) / 1024,
        handles=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        threads=sum(_number("Threads", status) for status in statuses),
    )


def _number(name: str, status: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", status)
    return int(found[1]) if found else 0


def test_what_the_node_holds_stays_flat(place: Hospital) -> None:
    place.node.start()
    samples: list[Sample] = []
    ends = time.monotonic() + 60 * MINUTES
    while time.monotonic() < ends:
        place.send(place.expose(SENDERS))
        samples.append(sample(place))
        pause_s(_EVERY_S)
    assert all(place.told.values())
    steady = samples[round(len(samples) * _WARM_UP) :]
    third = len(steady) // 3
    assert third > 0
    first, last = _typical(steady[:third]), _typical(steady[-third:])
    print(f"{len(place.told)} films; first {first}, last {last}")
    assert last.memory_mb < first.memory_mb * _GROWTH + _SPARE_MB
    assert last.handles <= first.handles + _SPARE_HANDLES
    assert last.threads <= first.threads + _SPARE_THREADS
    place.demand_nothing_lost_or_doubled()


def _typical(samples: list[Sample]) -> Sample:
    return Sample(
        memory_mb=statistics.median(s.memory_mb for s in samples),
        handles=round(statistics.median(s.handles for s in samples)),
        threads=round(statistics.median(s.threads for s in samples)),
    )
