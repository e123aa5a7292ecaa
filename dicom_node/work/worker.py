"""One job from claim to results: decode, explain, encode, keep, produce."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from dicom_node.errors import EncodingError, InputError
from dicom_node.radiograph import Film
from dicom_node.results import registry
from dicom_node.results.provenance import ResultContext
from dicom_node.routing import guards
from pipeline.engine.base import Engine, Request
from pipeline.errors import FilmError, ModelError, OutOfMemoryError
from pipeline.types import Attribution, Mode, Unlike
from storage import faults
from storage.errors import (
    LeaseLostError,
    ObjectMissingError,
    StorageError,
    StoreUnavailableError,
)
from storage.faults import Point
from storage.jobs import Job, Result
from storage.objects import ObjectStore
from storage.store import JobStore

_log = structlog.get_logger()

_STORE_AWAY_S = 5.0
_GIVE_UP = timedelta(days=1)


class Turn(Enum):
    """How one look for work ended; the value is how long to wait before the next, in seconds."""

    DONE = 0.0
    IDLE = 0.25
    RELEASED = 5.0


class FilmReader(Protocol):
    """Reads a kept file into a film, wherever the decoding runs."""

    def read(self, path: Path) -> Film:
        """The film. Raises InputError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """`owner` names this worker in its leases; heartbeats go out three times a lease."""

    owner: str
    lease_s: float


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
    ) -> None:
        self._store, self._objects = store, objects
        self._engine, self._reader = engine, reader
        self._settings, self._clock = settings, clock

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the job in hand is finished first."""
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

    def _conclude(self, job: Job, token: int, log: FilteringBoundLogger) -> Turn:
        """The job has left RUNNING, by whichever way it must."""
        store, now = self._store, self._clock
        try:
            made = self._make(job)
            store.produce(job.key, token, now(), made, job.destinations)
            faults.reach(Point.PRODUCED)
            log.info("job produced", results=len(made))
        except (InputError, FilmError) as fault:
            store.reject(job.key, token, now(), str(fault))
            log.info("job rejected", reason=str(fault))
        except (ModelError, EncodingError, ObjectMissingError) as fault:
            store.fail(job.key, token, now(), str(fault))
            log.warning("job failed", reason=str(fault))
        except (LeaseLostError, StoreUnavailableError):
            raise
        except (OutOfMemoryError, MemoryError, StorageError, OSError) as fault:
            # The device or the disk is full or broken, or the decoder was stopped with the node:
            # not this film's doing, and no use in trying at once. But not for ever.
            if now() - job.created_at > _GIVE_UP:
                reason = f"given up after a day of {type(fault).__name__}; retry once it is mended"
                store.fail(job.key, token, now(), reason)
                log.warning("job failed", reason=reason)
                return Turn.DONE
            store.release(job.key, token, now(), f"to be tried again: {type(fault).__name__}")
            log.warning("job released", error=str(fault))
            return Turn.RELEASED
        except Exception as fault:
            store.fail(job.key, token, now(), f"{type(fault).__name__}: see the log")
            log.exception("job failed")
        return Turn.DONE

    def _make(self, job: Job) -> list[Result]:
        film = self._reader.read(self._objects.local_path(job.object))
        known = guards.states_chest(film.header.dataset)
        request = Request(
            film=film.radiograph,
            mode=Mode(job.mode),
            seed=job.seed,
            unlike=Unlike.DOUBT if known else Unlike.REFUSE,
        )
        attribution = self._engine.explain([request])[0]
        faults.reach(Point.ANALYSED)
        return [self._encode(job, film, attribution, kind) for kind in job.results]

    def _encode(self, job: Job, film: Film, attribution: Attribution, kind: str) -> Result:
        context = ResultContext(
            header=film.header,
            radiograph=film.radiograph,
            attribution=attribution,
            analysis_key=job.key,
            created_at=job.created_at,
        )
        dataset = registry.build(kind, context)
        data = registry.encode(dataset)
        faults.reach(Point.ENCODED)
        kept = self._objects.keep(f"results/{job.key[:2]}/{job.key}/{kind}.dcm", data)
        faults.reach(Point.RESULT_KEPT)
        return Result(
            job_key=job.key,
            kind=kind,
            sop_class_uid=str(dataset.SOPClassUID),
            sop_instance_uid=str(dataset.SOPInstanceUID),
            series_instance_uid=str(dataset.SeriesInstanceUID),
            object=kept,
        )

    @contextmanager
    def _kept_alive(self, key: str, token: int) -> Iterator[None]:
        """A thread renews the lease until the block is left."""
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
