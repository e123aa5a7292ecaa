"""Clocks: whether those of machines that share a database agree, and what one that was ahead left.

Machines judge each other's leases by them.
"""

from datetime import datetime, timedelta

import structlog

from storage.jobs import CLOCKS_APART
from storage.store import JobStore

_log = structlog.get_logger()

_MOST_APART_S = 5.0
"""Far below any lease: `work.lease_s` is 30 s at least."""


def disagreement(store: JobStore, now: datetime) -> str:
    """In words; empty where our clock is the database's, within seconds. Raises StorageError."""
    ahead_s = store.ahead_s(now)
    if abs(ahead_s) <= _MOST_APART_S:
        return ""
    how = "ahead of" if ahead_s > 0 else "behind"
    return (
        f"this machine's clock is {abs(ahead_s):.0f} s {how} that of the database: "
        "set both by NTP, or machines take each other's work for that of the dead"
    )


def bring_forward(store: JobStore, longest_wait_s: float, now: datetime) -> None:
    """What a clock that was ahead has put off, and no delay has, is due. Raises StorageError.

    Another machine's clock may be a little ahead of ours: what it puts off for so long waits.
    """
    beyond = now + timedelta(seconds=longest_wait_s) + CLOCKS_APART
    number = store.bring_forward(beyond, now)
    if number:
        _log.warning("a clock was ahead: what waited for its time is due", deliveries=number)


def warn(store: JobStore, now: datetime) -> None:
    """The log has it where they do not agree. Raises StorageError."""
    if words := disagreement(store, now):
        _log.error("clocks disagree", reason=words)
