import pytest

from dicom_node.backoff import delay_s
from dicom_node.config import Retry

RETRY = Retry(first_delay_s=10, factor=2, max_delay_s=100, jitter=0.2)


@pytest.mark.parametrize(
    ("attempts", "delay"), [(1, 10), (2, 20), (3, 40), (4, 80), (5, 100), (99, 100), (10**9, 100)]
)
def test_the_delay_doubles_up_to_the_longest(attempts: int, delay: float) -> None:
    assert delay_s(attempts, RETRY, 0.5) == pytest.approx(delay)


def test_chance_spreads_the_delay_by_a_fifth_to_either_side() -> None:
    assert delay_s(2, RETRY, 0.0) == pytest.approx(16)
    assert delay_s(2, RETRY, 1.0) == pytest.approx(24)


def test_a_factor_of_one_keeps_the_delay() -> None:
    assert delay_s(50, Retry(first_delay_s=7, factor=1, jitter=0), 0.3) == 7
