"""The two state machines: a job's and a delivery's; one enum and one table each."""

from enum import StrEnum

from storage.errors import TransitionError


class JobState(StrEnum):
    """Where the analysis of one film stands."""

    RECEIVED = "RECEIVED"
    RUNNING = "RUNNING"
    PRODUCED = "PRODUCED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"


class DeliveryState(StrEnum):
    """Where one result on its way to one destination stands."""

    DUE = "DUE"
    SENDING = "SENDING"
    DELIVERED = "DELIVERED"
    COMMITTED = "COMMITTED"
    REFUSED = "REFUSED"
    HELD = "HELD"
    EXPIRED = "EXPIRED"
    QUARANTINED = "QUARANTINED"


JOB_TRANSITIONS: frozenset[tuple[JobState, JobState]] = frozenset(
    {
        (JobState.RECEIVED, JobState.RUNNING),  # claimed under a lease
        (JobState.RUNNING, JobState.PRODUCED),  # results kept, deliveries due
        (JobState.RUNNING, JobState.REJECTED),  # the image's fault
        (JobState.RUNNING, JobState.FAILED),  # ours, or the installation's
        (JobState.RUNNING, JobState.RECEIVED),  # lease lost, out of memory, node stopping
        (JobState.FAILED, JobState.RECEIVED),  # by the operator, or its film was sent again
        (JobState.PRODUCED, JobState.RECEIVED),  # a result is gone, or more is asked of it
        (JobState.REJECTED, JobState.RECEIVED),  # the same: its note's is; or sent again
    }
)

OPEN = frozenset({JobState.RECEIVED, JobState.RUNNING})
"""Jobs that are not at their end."""
UNDONE = frozenset({JobState.REJECTED, JobState.FAILED})
"""Jobs that came to nothing: the film, sent again, begins them afresh."""
ENDED = frozenset({JobState.PRODUCED, JobState.REJECTED})
"""Jobs that have made what there is to make: of a rejected one the notes that say why."""
WAITING = frozenset({DeliveryState.DUE, DeliveryState.HELD})
"""Deliveries that are yet to be sent."""
ARRIVED = frozenset({DeliveryState.DELIVERED, DeliveryState.COMMITTED})
LOST = frozenset({DeliveryState.REFUSED, DeliveryState.QUARANTINED, DeliveryState.EXPIRED})
"""Deliveries that are sent no more, unless the operator tries them again."""

DELIVERY_TRANSITIONS: frozenset[tuple[DeliveryState, DeliveryState]] = frozenset(
    {
        (DeliveryState.DUE, DeliveryState.SENDING),
        (DeliveryState.SENDING, DeliveryState.DELIVERED),
        (DeliveryState.SENDING, DeliveryState.DUE),  # transient: backing off
        (DeliveryState.SENDING, DeliveryState.REFUSED),  # permanent
        (DeliveryState.SENDING, DeliveryState.QUARANTINED),  # failed its self-check
        (DeliveryState.DELIVERED, DeliveryState.COMMITTED),
        (DeliveryState.DELIVERED, DeliveryState.DUE),  # commitment failed: send again
        (DeliveryState.DUE, DeliveryState.EXPIRED),  # too late to be of use
        (DeliveryState.EXPIRED, DeliveryState.DUE),  # by the operator
        (DeliveryState.DUE, DeliveryState.REFUSED),  # its model was recalled
        (DeliveryState.HELD, DeliveryState.REFUSED),  # the same
        (DeliveryState.DUE, DeliveryState.HELD),
        (DeliveryState.HELD, DeliveryState.DUE),
        (DeliveryState.HELD, DeliveryState.REFUSED),  # its destination is no more
        (DeliveryState.REFUSED, DeliveryState.DUE),  # by the operator
        (DeliveryState.QUARANTINED, DeliveryState.DUE),  # by the operator
        (DeliveryState.REFUSED, DeliveryState.QUARANTINED),  # made again, failed its self-check
        (DeliveryState.EXPIRED, DeliveryState.QUARANTINED),  # the same
        (DeliveryState.DUE, DeliveryState.QUARANTINED),  # the same
        (DeliveryState.HELD, DeliveryState.QUARANTINED),  # the same
    }
)


def check_job(old: JobState, new: JobState) -> None:
    """Return if a job may go from `old` to `new`.

    Raises:
        TransitionError: the table has no such step.
    """
    if (old, new) not in JOB_TRANSITIONS:
        raise TransitionError(f"a job cannot go from {old} to {new}")


def check_delivery(old: DeliveryState, new: DeliveryState) -> None:
    """Return if a delivery may go from `old` to `new`.

    Raises:
        TransitionError: the table has no such step.
    """
    if (old, new) not in DELIVERY_TRANSITIONS:
        raise TransitionError(f"a delivery cannot go from {old} to {new}")
