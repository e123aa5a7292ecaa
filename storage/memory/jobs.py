"""Jobs: who works on which, under leases with fencing tokens."""

from dataclasses import replace
from datetime import datetime, timedelta

from storage.errors import LeaseLostError, UnknownKeyError
from storage.jobs import Job, JobCount, Lease
from storage.memory.tables import Tables, film_of, locked
from storage.states import UNDONE, DeliveryState, JobState, check_job
from storage.words import legible


class Jobs(Tables):
    """Jobs and their leases."""

    @locked
    def job(self, key: str) -> Job:
        """See JobStore."""
        if key in self._jobs:
            return self._jobs[key]
        found = [job for job in self._jobs.values() if key and job.key.startswith(key)]
        if not found:
            raise UnknownKeyError(f"no job {key!r}")
        if len(found) > 1:
            raise UnknownKeyError(f"more than one job begins with {key!r}")
        return found[0]

    @locked
    def jobs(
        self, limit: int, state: JobState | None = None, sop_instance_uid: str = ""
    ) -> list[Job]:
        """See JobStore."""
        chosen = [
            job
            for job in self._jobs.values()
            if state in (None, job.state) and sop_instance_uid in ("", job.sop_instance_uid)
        ]
        by_key = sorted(chosen, key=lambda job: job.key)
        return sorted(by_key, key=lambda job: job.created_at, reverse=True)[:limit]

    @locked
    def job_counts(self) -> list[JobCount]:
        """See JobStore."""
        made: dict[JobState, list[datetime]] = {}
        for job in self._jobs.values():
            made.setdefault(job.state, []).append(job.created_at)
        return [
            JobCount(state=state, number=len(times), oldest=min(times))
            for state, times in sorted(made.items())
        ]

    @locked
    def claim(self, owner: str, now: datetime, lease_s: float) -> Job | None:
        """See JobStore."""
        waiting = [job for job in self._jobs.values() if job.state is JobState.RECEIVED]
        if not waiting:
            return None
        job = min(waiting, key=lambda job: (job.updated_at, job.created_at, job.key))
        self._tokens[job.key] += 1
        lease = Lease(
            owner=owner, token=self._tokens[job.key], until=now + timedelta(seconds=lease_s)
        )
        return self._change(
            job, JobState.RUNNING, now, error=job.error, lease=lease, attempts=job.attempts + 1
        )

    @locked
    def heartbeat(self, key: str, token: int, until: datetime) -> None:
        """See JobStore."""
        job, lease = self._held(key, token)
        self._jobs[key] = replace(job, lease=replace(lease, until=until))

    def fail(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.FAILED, now, reason)

    def release(
        self, key: str, token: int, now: datetime, reason: str, *, counted: bool = False
    ) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.RECEIVED, now, reason)
        job = self._jobs[key]
        self._jobs[key] = replace(job, attempts=job.attempts - (0 if counted else 1))

    @locked
    def reroute(self, key: str, token: int, now: datetime, reason: str) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.FAILED, now, reason)
        for number, film in self._received.items():
            if film.job_key == key:
                self._received[number] = replace(film, decision="", job_key="")

    @locked
    def reclaim(self, now: datetime, max_attempts: int, dead: str = "") -> list[str]:
        """See JobStore."""

        def is_over(owner: str, until: datetime) -> bool:
            return until < now or (dead != "" and owner.startswith(dead))

        leased = [(job, job.lease) for job in self._jobs.values() if job.lease]
        lapsed = [job for job, lease in leased if is_over(lease.owner, lease.until)]
        for job in lapsed:
            spent = job.attempts >= max_attempts
            reason = f"its worker died {job.attempts} times" if spent else "its worker was lost"
            state = JobState.FAILED if spent else JobState.RECEIVED
            self._change(job, state, now, error=reason)
        for name, (owner, until) in [*self._sending.items()]:
            if is_over(owner, until):
                self._finish(name, DeliveryState.DUE, now, "its sender was lost")
        return sorted(job.key for job in lapsed)

    @locked
    def abandon(self, owners: str, now: datetime) -> None:
        """See JobStore."""
        for job in [*self._jobs.values()]:
            if job.lease and job.lease.owner.startswith(owners):
                why, attempts = "its worker was stopped", job.attempts - 1
                self._change(job, JobState.RECEIVED, now, error=why, attempts=attempts)
        for name, (owner, _) in [*self._sending.items()]:
            if owner.startswith(owners):
                self._finish(name, DeliveryState.DUE, now, "its sender was lost")

    def _held(self, key: str, token: int) -> tuple[Job, Lease]:
        job = self._jobs.get(key)
        if job is None or job.lease is None or job.lease.token != token:
            raise LeaseLostError(f"job {key[:12]} is no longer held under token {token}")
        return job, job.lease

    @locked
    def _leave(self, key: str, token: int, state: JobState, now: datetime, reason: str) -> None:
        job, _ = self._held(key, token)
        self._change(job, state, now, error=reason)

    def _change(
        self,
        job: Job,
        state: JobState,
        now: datetime,
        *,
        error: str = "",
        lease: Lease | None = None,
        attempts: int | None = None,
    ) -> Job:
        check_job(job.state, state)
        tries = job.attempts if attempts is None else attempts
        self._jobs[job.key] = replace(
            job, state=state, error=legible(error), lease=lease, attempts=tries, updated_at=now
        )
        if state in UNDONE:
            self._free_joined_films(self._jobs[job.key])
        return self._jobs[job.key]

    def _free_joined_films(self, job: Job) -> None:
        for number in self._joined:
            film = self._received[number]
            judged = job.state is JobState.REJECTED and film_of(film) == film_of(job)
            if film.job_key == job.key and not judged:
                self._received[number] = replace(film, decision="", job_key="")
