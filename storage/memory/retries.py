"""What failed is tried again, by the operator."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from storage import promises
from storage.errors import TransitionError
from storage.jobs import REJECTION_NOTE, Job
from storage.memory.production import Production
from storage.memory.tables import locked, name_of
from storage.states import ARRIVED, LOST, OPEN, DeliveryState, JobState


class Retries(Production):
    """Jobs and deliveries that failed."""

    @locked
    def retry(self, key: str, now: datetime, lost: Collection[str] = ()) -> Job:
        """See JobStore."""
        job = self.job(key)
        undone = job.state is JobState.FAILED
        mine = [d for d in self.deliveries(job.key) if not self._is_rejected(d)]
        failed = [d for d in mine if d.state in LOST and d.sop_instance_uid not in lost]
        remade = self._is_to_be_made_again(job, lost)
        if not (failed or remade or undone):
            raise TransitionError(f"job {key[:12]} is {job.state}: nothing of it has failed")
        for delivery in failed:
            self._finish(name_of(delivery), DeliveryState.DUE, now, "")
            self._retried[name_of(delivery)] = now
        for delivery in self.deliveries(job.key):
            if delivery.sop_instance_uid in lost and delivery.state in LOST:
                waiting = replace(delivery, reason=promises.LOST)
                self._deliveries[name_of(delivery)] = waiting
        if undone:
            return self._change(job, JobState.RECEIVED, now, attempts=0)
        if not remade:
            return job
        left_out = job.error if job.state is JobState.PRODUCED else ""
        return self._change(job, JobState.RECEIVED, now, error=left_out, attempts=0)

    def _is_to_be_made_again(self, job: Job, lost: Collection[str]) -> bool:
        recalled = any(made.kind == REJECTION_NOTE for made in self.results(job.key))
        wanted = any(
            delivery.sop_instance_uid in lost and delivery.state not in ARRIVED
            for delivery in self.deliveries(job.key)
        )
        left_out = job.state is JobState.PRODUCED and job.error != ""
        return (wanted or left_out) and not recalled and job.state not in OPEN
