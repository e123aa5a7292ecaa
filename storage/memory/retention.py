"""Which objects nobody needs any more, and that they are gone."""

from collections.abc import Callable, Collection
from datetime import datetime

from storage.jobs import Job, ObjectRef, Proof, Received, Result
from storage.memory.production import Production
from storage.memory.tables import locked
from storage.states import LOST, OPEN, JobState
from storage.words import OURS


class Retention(Production):
    """What is purged, and what no row knows."""

    @locked
    def purgeable_received(self, before: datetime, proof: Proof, limit: int) -> list[Received]:
        """See JobStore."""
        films = self._received.values()
        return [film for film in films if self._may_go(film, before, proof)][:limit]

    @locked
    def purgeable_results(self, before: datetime, proof: Proof, limit: int) -> list[Result]:
        """See JobStore."""
        made = self._results.values()
        return [result for result in made if self._is_unneeded(result, before, proof)][:limit]

    @locked
    def purge_received(
        self,
        film: Received,
        before: datetime,
        proof: Proof,
        now: datetime,  # noqa: ARG002
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """See JobStore."""
        if not self._may_go(self._received[film.number], before, proof):
            return False
        remove(film.object)
        self._purged_films.add(film.number)
        return True

    @locked
    def purge_result(
        self,
        result: Result,
        before: datetime,
        proof: Proof,
        now: datetime,  # noqa: ARG002
        remove: Callable[[ObjectRef], None],
    ) -> bool:
        """See JobStore."""
        if not self._is_unneeded(result, before, proof):
            return False
        self._purged_results.add(result.sop_instance_uid)
        remove(result.object)
        return True

    @locked
    def unknown(self, names: Collection[str]) -> list[str]:
        """See JobStore."""
        films = {f.object.name for n, f in self._received.items() if n not in self._purged_films}
        made = {r.object.name for r in self._results.values() if self._may_be_sent(r)}
        return [name for name in names if name not in films | made]

    @locked
    def drop_unknown(self, name: str, drop: Callable[[], bool]) -> bool:
        """See JobStore."""
        return bool(self.unknown([name])) and drop()

    def _may_go(self, film: Received, before: datetime, proof: Proof) -> bool:
        senders = [other for other in self._received.values() if other.object == film.object]
        made = [job for job in self._jobs.values() if job.object.digest == film.object.digest]
        left = [job for job in made if job.sop_instance_uid == film.sop_instance_uid]
        if any(self._goes_on(job, proof) for job in left):
            return False
        return film.number not in self._purged_films and all(
            other.arrived_at < before
            and other.decision != ""
            and not self._is_owed(other, (OURS,))
            and (not other.job_key or self._is_final(other.job_key, proof))
            for other in senders
            if other.number not in self._purged_films
        )

    def _goes_on(self, job: Job, proof: Proof) -> bool:
        under_way = [one for one in self.deliveries(job.key) if one.state not in LOST]
        return job.state in OPEN or not all(map(proof.is_of, under_way))

    def _is_unneeded(self, result: Result, before: datetime, proof: Proof) -> bool:
        return (
            self._jobs[result.job_key].updated_at < before
            and result.sop_instance_uid not in self._purged_results
            and self._is_final(result.job_key, proof)
        )

    def _may_be_sent(self, result: Result) -> bool:
        """Its file is there, or whoever makes it again may find it so."""
        is_purged = result.sop_instance_uid in self._purged_results
        return not is_purged or self._jobs[result.job_key].state in OPEN

    def _is_final(self, key: str, proof: Proof) -> bool:
        job = self._jobs[key]
        whole = job.state is JobState.PRODUCED and job.error == ""
        return (whole or job.state is JobState.REJECTED) and all(
            map(proof.is_of, self.deliveries(key))
        )
