"""What failed is tried again, by the operator."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, select, update

from storage import engine, promises
from storage.errors import TransitionError
from storage.jobs import Job
from storage.schema import deliveries
from storage.sql.jobs import Jobs, restart
from storage.sql.production import notes_of
from storage.states import ARRIVED, ENDED, LOST, DeliveryState, JobState, check_delivery


class Retries(Jobs):
    """Jobs and deliveries that failed."""

    def retry(self, key: str, now: datetime, lost: Collection[str] = ()) -> Job:
        """See JobStore."""
        job = self.job(key)
        with engine.writing(self._engine) as db:
            changed = restart(db, job.key, now, JobState.FAILED)
            _await_files(db, job.key, lost)
            again = _resend(db, job.key, now, lost)
            changed = changed or again + _remake(db, job, now, lost)
            if not changed:
                raise TransitionError(f"job {key[:12]} is {job.state}: nothing of it has failed")
        return self.job(job.key)


def _remake(db: Connection, job: Job, now: datetime, lost: Collection[str]) -> int:
    """The job waits afresh if something was left out, or a lost result of it has yet to arrive.

    Returns how many did.
    """
    wanted = select(deliveries.c.sop_instance_uid).where(
        deliveries.c.job_key == job.key,
        deliveries.c.sop_instance_uid.in_(lost),
        deliveries.c.state.not_in(ARRIVED),
    )
    recalled = db.execute(notes_of(job.key)).first() is not None
    left_out = job.state is JobState.PRODUCED and job.error != ""
    if recalled or not (left_out or db.execute(wanted).first() is not None):
        return 0
    return restart(db, job.key, now, *ENDED)


def _await_files(db: Connection, key: str, lost: Collection[str]) -> None:
    """What failed of these results is due as soon as they are made again."""
    failed = update(deliveries).where(
        deliveries.c.job_key == key,
        deliveries.c.sop_instance_uid.in_(lost),
        deliveries.c.state.in_(LOST),
    )
    db.execute(failed.values(reason=promises.LOST))


def _resend(db: Connection, key: str, now: datetime, lost: Collection[str]) -> int:
    """The failed deliveries of a job are due, but those of lost results; how many are.

    Of a recalled job they are its note's alone.
    """
    for state in LOST:
        check_delivery(state, DeliveryState.DUE)
    failed = update(deliveries).where(
        deliveries.c.job_key == key,
        deliveries.c.state.in_(LOST),
        deliveries.c.sop_instance_uid.not_in(lost),
    )
    notes = notes_of(key)
    if db.execute(notes).first() is not None:
        failed = failed.where(deliveries.c.sop_instance_uid.in_(notes))
    values = {"state": DeliveryState.DUE, "next_attempt_at": now, "reason": ""}
    return db.execute(failed.values(**values, retried_at=now)).rowcount
