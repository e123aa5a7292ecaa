"""What jobs bring: results, and their deliveries to whom they were promised."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from storage import promises
from storage.jobs import REJECTION_NOTE, Delivery, Result
from storage.memory.jobs import Jobs
from storage.memory.tables import locked
from storage.states import LOST, WAITING, DeliveryState, JobState
from storage.store import NO_CHOICE, takers_of
from storage.words import legible


class Production(Jobs):
    """Results and their deliveries, as they are made."""

    @locked
    def results(self, key: str) -> list[Result]:
        """See JobStore."""
        return [result for result in self._results.values() if result.job_key == key]

    @locked
    def deliveries(self, key: str) -> list[Delivery]:
        """See JobStore."""
        return [delivery for delivery in self._deliveries.values() if delivery.job_key == key]

    @locked
    def produce(
        self,
        key: str,
        token: int,
        now: datetime,
        results: Sequence[Result],
        destinations: Sequence[str],
        kinds: Mapping[str, Collection[str]] = NO_CHOICE,
        quarantined: Mapping[str, str] = NO_CHOICE,
        left_out: str = "",
    ) -> None:
        """See JobStore."""
        known = [self._results.get(result.sop_instance_uid) for result in results]
        if any(other is not None and other.job_key != key for other in known):
            raise ValueError("results.sop_instance_uid: another job has it")
        self._leave(key, token, JobState.PRODUCED, now, left_out)
        again = bool(self.results(key)) or token > self._jobs[key].attempts
        for result in results:
            takers = takers_of(result, destinations, kinds)
            self._put_result(result, takers, now, quarantined.get(result.kind, ""), again=again)
        promised = self._jobs[key].promised
        had = {name: tuple(kinds.get(name, promised.get(name, ()))) for name in destinations}
        self._bring(key, had, promises.beyond(had, promised), now)

    @locked
    def reject(
        self,
        key: str,
        token: int,
        now: datetime,
        reason: str,
        notes: Sequence[Result] = (),
        destinations: Sequence[str] = (),
        quarantined: Mapping[str, str] = NO_CHOICE,
    ) -> None:
        """See JobStore."""
        self._leave(key, token, JobState.REJECTED, now, reason)
        for note in notes:
            self._put_result(note, destinations, now, quarantined.get(note.kind, ""))
            self._add_takers(note, destinations, now, recalled=False)

    @locked
    def retract(
        self, note: Result, destinations: Sequence[str], now: datetime, reason: str
    ) -> bool:
        """See JobStore."""
        if note.sop_instance_uid in self._results:
            self._put_result(note, destinations, now, "", every=True)
            return False
        for name, delivery in [*self._deliveries.items()]:
            if delivery.job_key == note.job_key and delivery.state in WAITING:
                self._finish(name, DeliveryState.REFUSED, now, reason)
        self._add_result(note, destinations, now)
        return True

    def _bring(self, key: str, had: promises.Kinds, more: promises.Kinds, now: datetime) -> None:
        if not more:
            return
        made = {result.kind: result for result in self.results(key)}
        recalled = REJECTION_NOTE in made
        for kind, result in made.items():
            takers = [name for name, kinds in more.items() if kind in kinds]
            self._add_takers(result, takers, now, recalled=recalled)
        wanted = {kind for kinds in more.values() for kind in kinds} & set(made)
        gone = any(made[kind].sop_instance_uid in self._purged_results for kind in wanted)
        anew = gone or promises.kinds_new_to(had, more) - set(made)
        job = self._jobs[key]
        if anew and not recalled and job.state is JobState.PRODUCED:
            self._change(job, JobState.RECEIVED, now, error=job.error, attempts=0)

    def _add_takers(
        self, result: Result, takers: Sequence[str], now: datetime, *, recalled: bool
    ) -> None:
        uid = result.sop_instance_uid
        there = [d for (of, _), d in self._deliveries.items() if of == uid]
        state, reason = promises.first_step(
            recalled=recalled,
            purged=uid in self._purged_results,
            faults=[d.reason for d in there if d.state is DeliveryState.QUARANTINED],
        )
        known = {delivery.destination for delivery in there}
        for destination in takers:
            if destination not in known:
                self._add_delivery(result, destination, now, state, reason, again=True)

    def _put_result(
        self,
        result: Result,
        destinations: Sequence[str],
        now: datetime,
        quarantined: str,
        *,
        again: bool = False,
        every: bool = False,
    ) -> None:
        uid = result.sop_instance_uid
        if uid not in self._results:
            self._add_result(result, destinations, now, quarantined, again=again)
            return
        same = self._results[uid].object.digest == result.object.digest
        kept = same and uid not in self._purged_results
        only_waiting = kept and not (every or quarantined)
        self._results[uid] = result
        self._purged_results.discard(uid)
        new = DeliveryState.QUARANTINED if quarantined else DeliveryState.DUE
        old = (LOST | WAITING if quarantined else LOST) - {new}
        for name, delivery in [*self._deliveries.items()]:
            waits = not only_waiting or delivery.reason in promises.WAITS_FOR_FILE
            if name[0] == uid and delivery.state in old and waits:
                self._finish(name, new, now, quarantined)
                self._retried[name] = now

    def _add_result(
        self,
        result: Result,
        destinations: Sequence[str],
        now: datetime,
        quarantined: str = "",
        *,
        again: bool = False,
    ) -> None:
        self._results[result.sop_instance_uid] = result
        state = DeliveryState.QUARANTINED if quarantined else DeliveryState.DUE
        for destination in destinations:
            self._add_delivery(result, destination, now, state, quarantined, again=again)

    def _add_delivery(
        self,
        result: Result,
        destination: str,
        now: datetime,
        state: DeliveryState,
        reason: str,
        *,
        again: bool,
    ) -> None:
        name = result.sop_instance_uid, destination
        self._deliveries[name] = Delivery(
            job_key=result.job_key,
            sop_instance_uid=result.sop_instance_uid,
            destination=destination,
            state=state,
            attempts=0,
            next_attempt_at=now,
            reason=legible(reason),
        )
        if again:
            self._retried[name] = now

    def _is_rejected(self, delivery: Delivery) -> bool:
        """Whether a note of its job rejects this result."""
        if self._results[delivery.sop_instance_uid].kind == REJECTION_NOTE:
            return False
        return any(made.kind == REJECTION_NOTE for made in self.results(delivery.job_key))
