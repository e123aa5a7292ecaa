"""How long to wait before a delivery is tried again."""

from dicom_node.config import Retry

_MOST_STEPS = 64  # beyond it every factor has reached any longest delay; bounds the power


def delay_s(attempts: int, retry: Retry, chance: float) -> float:
    """The delay after that many attempts (1 and up); `chance` in 0 .. 1 is drawn by the caller.

    It grows by `factor` from `first_delay_s` to `max_delay_s`, and is spread evenly over
    plus or minus `jitter` of itself, so that many deliveries that failed at once do not come back
    at once.
    """
    steps = min(max(attempts - 1, 0), _MOST_STEPS)
    grown = min(retry.max_delay_s, retry.first_delay_s * retry.factor**steps)
    return grown * (1 + retry.jitter * (2 * chance - 1))
