"""One job from claim to its end: made, and then produced, rejected, failed or let go."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

import structlog
from structlog.typing import FilteringBoundLogger

from dicom_node.errors import DecoderError, EncodingError, InputError
from dicom_node.results.inspection import Inspector
from dicom_node.work import model
from dicom_node.work.limit import Limit
from dicom_node.work.making import FilmReader, Made, Maker, MakerSettings
from dicom_node.work.patience import Patience
from pipeline import shortage
from pipeline.engine.base import Engine
from pipeline.errors import FilmError, ModelError, PipelineError, ShortageError
from storage import faults
from storage.errors import (
    LeaseLostError,
    ObjectMissingError,
    ObjectsUnavailableError,
    StorageError,
    StoreUnavailableError,
)
from storage.faults import Point
from storage.jobs import Job
from storage.objects import ObjectStore
from storage.store import JobStore

_log = structlog.get_logger()

_STORE_AWAY_S = 5.0
_GIVE_UP = timedelta(days=1)
_AGAIN = "to be tried again: "
"""How the error of a job begins that was let go; it is another once the job came to an end."""


class Turn(Enum):
    """How one look for work ended; the value is how long to wait before the next, in seconds."""

    DONE = 0.0
    IDLE = 0.25
    RELEASED = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(MakerSettings):
    """`owner` names this worker in its leases; heartbeats go out three times a lease.

    A film whose decoder was killed `max_attempts` times has failed. A process that makes one job's
    results for `limit_s` hangs, and ends. A write that the database does not take is made again
    every `again_s`.
    """

    owner: str
    lease_s: float
    max_attempts: int = 3
    limit_s: float = 1800.0
    again_s: float = 1.0


class Worker:
    """Claims jobs and brings each to its end until told to stop."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        engine: Engine,
        reader: FilmReader,
        settings: WorkerSettings,
        clock: Callable[[], datetime],
        inspector: Inspector | None = None,
    ) -> None:
        self._store, self._engine = store, engine
        self._settings, self._clock = settings, clock
        self._limit = Limit(settings.limit_s)
        self._patience = Patience(settings.again_s, self._limit)
        self._maker = Maker(
            store=store,
            objects=objects,
            engine=engine,
            reader=reader,
            settings=settings,
            inspector=inspector or Inspector(None),
            patience=self._patience,
        )
        self._troubled: dict[str, datetime] = {}

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the job in hand is finished first."""
        self._patience.stop = stop
        while not stop.is_set():
            try:
                stop.wait(self.work_once().value)
            except StoreUnavailableError as fault:
                _log.warning("job store unavailable", error=str(fault))
                stop.wait(_STORE_AWAY_S)

    def work_once(self) -> Turn:
        """Bring the oldest waiting job to its end, if one waits."""
        job = self._store.claim(self._settings.owner, self._clock(), self._settings.lease_s)
        if job is None or job.lease is None:
            return Turn.IDLE
        log = _log.bind(job=job.key[:12], sop_instance_uid=job.sop_instance_uid)
        log.info("job started", attempt=job.attempts)
        faults.reach(Point.CLAIMED)
        try:
            with self._kept_alive(job.key, job.lease.token):
                return self._conclude(job, job.lease.token, log)
        except LeaseLostError:
            log.warning("lease lost, the job is another worker's now")
            return Turn.DONE
        except RuntimeError as fault:
            if not shortage.lacking(fault):
                raise
            return self._release(job, job.lease.token, fault)

    def _conclude(self, job: Job, token: int, log: FilteringBoundLogger) -> Turn:
        """The job has left RUNNING, by whichever way it must."""
        turn = self._end(job, token, log)
        if turn is Turn.DONE:
            self._troubled.pop(job.key, None)
        return turn

    def _end(self, job: Job, token: int, log: FilteringBoundLogger) -> Turn:
        if job.model_digest != self._engine.model_digest:
            return self._reroute(job, token, log)
        try:
            with self._limit.kept():
                self._produce_or_reject(job, token, log)
        except (ModelError, EncodingError, ObjectMissingError) as fault:
            self._fail(job, token, str(fault))
        except (LeaseLostError, StoreUnavailableError):
            raise
        except ObjectsUnavailableError as fault:
            self._troubled.pop(job.key, None)  # with them away nobody can tell
            return self._let_go(job, token, fault)  # until they are back, however long it takes
        except DecoderError as fault:
            return self._count(job, token, str(fault))
        except (ShortageError, MemoryError, StorageError, OSError) as fault:
            # Memory, device or disk is full or broken, or the decoder was stopped with the node:
            # not this film's doing, and no use in trying at once. But not for ever.
            return self._release(job, token, fault)
        except Exception as fault:
            if shortage.lacking(fault):  # as said by a library, in a class of its own
                return self._release(job, token, fault)
            log.exception("job failed")
            self._fail(job, token, f"{type(fault).__name__}: see the log")
        return Turn.DONE

    def _reroute(self, job: Job, token: int, log: FilteringBoundLogger) -> Turn:
        """Results are of the model that their job names: the film is routed for this one.

        Another model's would have UIDs that say it was the first's, and a resend would double them.
        """
        mine = self._engine.model_digest
        if not self._patience.ask(lambda: model.is_in_use(self._store, mine)):
            # The film would come back for ever. Films are routed for the model of the node's start.
            why = ModelError("the model was changed under the running node: start it again")
            return self._let_go(job, token, why)
        reason = f"the model is now {mine[:12]}; the film is analysed by that"
        self._patience.ask(lambda: self._store.reroute(job.key, token, self._clock(), reason))
        log.warning("job rerouted", reason=reason)
        return Turn.DONE

    def _fail(self, job: Job, token: int, reason: str) -> None:
        self._patience.ask(lambda: self._store.fail(job.key, token, self._clock(), reason))
        _log.warning("job failed", job=job.key[:12], reason=reason)

    def _count(self, job: Job, token: int, reason: str) -> Turn:
        """Try again what may be the film's fault, and fail it once it was tried often enough."""
        if job.attempts >= self._settings.max_attempts:
            self._fail(job, token, f"{reason} So it was {job.attempts} times.")
            return Turn.DONE
        store, why = self._store, f"{_AGAIN}{reason}"
        self._patience.ask(lambda: store.release(job.key, token, self._clock(), why, counted=True))
        _log.warning("job released", job=job.key[:12], reason=reason)
        return Turn.RELEASED

    def _release(self, job: Job, token: int, fault: Exception) -> Turn:
        """Try again what is the moment's fault, for a day from the first time that it was."""
        now = self._clock()
        if not job.error.startswith(_AGAIN):  # what was before is over, perhaps by another worker
            self._troubled.pop(job.key, None)
        if now - self._troubled.setdefault(job.key, now) > _GIVE_UP:
            why = f"given up after a day: {_in_words(fault)}: retry once it is mended"
            self._fail(job, token, why)
            return Turn.DONE
        return self._let_go(job, token, fault)

    def _let_go(self, job: Job, token: int, fault: Exception) -> Turn:
        """The job waits again, and no attempt was spent."""
        store, why = self._store, f"{_AGAIN}{_in_words(fault)}"
        self._patience.ask(lambda: store.release(job.key, token, self._clock(), why))
        _log.warning("job released", job=job.key[:12], error=str(fault))
        return Turn.RELEASED

    def _produce_or_reject(self, job: Job, token: int, log: FilteringBoundLogger) -> None:
        """The film's results are kept and due, or its fault is."""
        try:
            made, left_out = self._maker.make(job)
        except (InputError, FilmError) as fault:
            self._reject(job, token, str(fault))
            log.info("job rejected", reason=str(fault))
            return
        self._produce(job, token, made, left_out)
        log.info(
            "job produced", results=len(made), not_inspected=sum(not one.inspected for one in made)
        )

    def _produce(self, job: Job, token: int, made: Sequence[Made], left_out: str) -> None:
        """Each result is due where it is asked for, or quarantined there for its faults."""
        quarantined = _quarantined(job, made)
        results, kinds = [one.result for one in made], self._maker.addressing(job).kinds
        self._patience.ask(
            lambda: self._store.produce(
                job.key,
                token,
                self._clock(),
                results,
                tuple(kinds),
                kinds,
                quarantined,
                left_out,
            )
        )
        faults.reach(Point.PRODUCED)

    def _reject(self, job: Job, token: int, reason: str) -> None:
        """The job is rejected, and who asked for it is told why."""
        told = self._maker.addressing(job).told
        notes = self._maker.notes(job, reason) if told else []
        self._patience.ask(
            lambda: self._store.reject(
                job.key,
                token,
                self._clock(),
                reason,
                [note.result for note in notes],
                told,
                _quarantined(job, notes),
            )
        )

    @contextmanager
    def _kept_alive(self, key: str, token: int) -> Iterator[None]:
        """A thread renews the lease until the block is left.

        Raises:
            RuntimeError: the system gives no thread, and nothing was begun.
        """
        done = threading.Event()
        beat = threading.Thread(target=self._beat, args=(key, token, done), daemon=True)
        beat.start()
        try:
            yield
        finally:
            done.set()
            beat.join()

    def _beat(self, key: str, token: int, done: threading.Event) -> None:
        lease = timedelta(seconds=self._settings.lease_s)
        while not done.wait(self._settings.lease_s / 3):
            try:
                self._store.heartbeat(key, token, self._clock() + lease)
            except LeaseLostError:
                return  # the write at the end will say so
            except StoreUnavailableError as fault:
                _log.warning("heartbeat failed", job=key[:12], error=str(fault))


def _in_words(fault: Exception) -> str:
    """What the moment lacked, for whoever looks at the jobs."""
    if isinstance(fault, PipelineError):
        return str(fault)
    return shortage.lacking(fault) or getattr(fault, "strerror", None) or str(fault)


def _quarantined(job: Job, made: Sequence[Made]) -> dict[str, str]:
    """Why, by kind, some of these must not be sent; each is logged."""
    found = {one.result.kind: "; ".join(one.faults) for one in made if one.faults}
    for kind, wrong in found.items():
        _log.error("result quarantined", job=job.key[:12], kind=kind, faults=wrong)
    return found
