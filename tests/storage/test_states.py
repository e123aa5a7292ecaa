"""The two tables."""

import itertools

import pytest

from storage import states
from storage.errors import TransitionError
from storage.states import DeliveryState, JobState


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobState, JobState)))
def test_a_job_takes_the_steps_of_its_table_and_no_others(old: JobState, new: JobState) -> None:
    legal = {
        "RECEIVED": {"RUNNING"},
        "RUNNING": {"PRODUCED", "REJECTED", "FAILED", "RECEIVED"},
        "REJECTED": {"RECEIVED"},
        "FAILED": {"RECEIVED"},
    }
    if new in legal.get(old, set()):
        states.check_job(old, new)
    else:
        with pytest.raises(TransitionError):
            states.check_job(old, new)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(DeliveryState, DeliveryState)))
def test_a_delivery_takes_the_steps_of_its_table_and_no_others(
    old: DeliveryState, new: DeliveryState
) -> None:
    legal = {
        "DUE": {"SENDING", "HELD", "EXPIRED", "REFUSED"},
        "SENDING": {"DELIVERED", "DUE", "REFUSED", "QUARANTINED"},
        "DELIVERED": {"COMMITTED", "DUE"},
        "HELD": {"DUE", "REFUSED"},
        "REFUSED": {"DUE"},
        "QUARANTINED": {"DUE"},
        "EXPIRED": {"DUE"},
    }
    if new in legal.get(old, set()):
        states.check_delivery(old, new)
    else:
        with pytest.raises(TransitionError):
            states.check_delivery(old, new)
