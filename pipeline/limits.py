"""What the checks of a result are held against; settings, which need no library, are read by it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where each check doubts a result, and where the share off target withholds it.

    `stability` and `effect` are lower limits, the others upper ones; that of `unmarked` is set by
    calibration, and 1 doubts nothing. An edit that closes less than half of the gate has left more
    than it has removed.
    """

    stability: float = 0.05
    effect: float = 0.5
    off_target: float = 0.4
    off_target_withheld: float = 0.8
    unmarked: float = 1.0
