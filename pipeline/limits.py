"""What the checks of a result are held against; settings, which need no library, are read by it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where each check doubts a result, and where the share off target withholds it.

    `stability` and `effect` are lower limits, `off_target` and `off_target_withheld` upper ones.
    """

    stability: float = 0.05
    effect: float = 0.0
    off_target: float = 0.4
    off_target_withheld: float = 0.8
