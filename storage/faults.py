"""The named moments of the durability contract, at each of which a test may end the node.

`VALD_FAULT=<point>,<n>,<file>` kills the process group the n-th time that one of its processes
reaches the point, as a power cut would, and makes the file, which says that it happened; while the
file is there nothing is killed. For tests only: without the variable a point is nothing at all.
docs/durability.md says of each what a crash leaves there and what the restart does.
"""

import os
import signal
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

VARIABLE = "VALD_FAULT"


class Point(StrEnum):
    """A moment between two steps, named after the one that has just ended."""

    RECEIVED = "received"
    """The data set is in memory, nothing is on the disk."""
    WRITTEN = "written"
    """A file is on the disk under its temporary name."""
    KEPT = "kept"
    """The film's file is durable under its final name; no row knows it."""
    RECORDED = "recorded"
    """The film's row is committed; its sender has no answer."""
    ANSWERED = "answered"
    """0x0000 was handed to the network."""
    DECIDED = "decided"
    """The router knows what to do; no row says so."""
    ROUTED = "routed"
    """The decision and the job are committed."""
    CLAIMED = "claimed"
    """The job is RUNNING under a lease."""
    ANALYSED = "analysed"
    """The attribution is in memory."""
    ENCODED = "encoded"
    """A result is in memory as Part 10 bytes."""
    RESULT_KEPT = "result-kept"
    """A result's file is durable; no row knows it."""
    PRODUCED = "produced"
    """Results and deliveries are committed."""
    SENDING = "sending"
    """Deliveries are SENDING under a lease; nothing was sent."""
    SENT = "sent"
    """The destination has answered a batch; no row says so."""
    ACKNOWLEDGED = "acknowledged"
    """A delivery is recorded as DELIVERED."""
    ASKING = "asking"
    """A commitment transaction is recorded; the destination was not asked."""
    ASKED = "asked"
    """The destination has answered the request."""
    REPORTED = "reported"
    """Its report is in memory; its sender has no answer."""
    COMMITTED = "committed"
    """Deliveries are recorded as COMMITTED."""


@dataclass(slots=True)
class _Armed:
    point: str
    nth: int
    marker: Path
    reached: int = field(default=0)


def reach(point: Point) -> None:
    """Return, unless this process group was to be killed here."""
    if _ARMED is None or point != _ARMED.point:
        return
    _ARMED.reached += 1
    if _ARMED.reached < _ARMED.nth:
        return
    try:
        _ARMED.marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.killpg(0, signal.SIGKILL)


def _armed(text: str) -> _Armed | None:
    if not text:
        return None
    point, nth, marker = text.split(",", 2)
    return _Armed(point=Point(point), nth=int(nth), marker=Path(marker))


# Read here and not in dicom_node.config: a fault is no setting, and every process has its own.
_ARMED = _armed(os.environ.get(VARIABLE, ""))
