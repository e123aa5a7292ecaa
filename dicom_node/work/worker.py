"""One job from claim to results: decode, explain, encode, keep, produce."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog
from pydicom import Dataset
from structlog.typing import FilteringBoundLogger

from dicom_node import radiograph
from dicom_node.config import SeriesLabels
from dicom_node.errors import EncodingError, InputError
from dicom_node.radiograph import Film
from dicom_node.results import carried, not_analysed, registry
from dicom_node.results.inspection import Inspector
from dicom_node.results.not_analysed import Refusal
from dicom_node.results.provenance import DocumentReference, ResultContext
from dicom_node.routing import guards
from dicom_node.work import addressing, model
from dicom_node.work.addressing import Addressing
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
from storage.states import JobState
from storage.store import JobStore

_log = structlog.get_logger()

_STORE_AWAY_S = 5.0
_GIVE_UP = timedelta(days=1)
_AGAIN = "to be tried again"
_MOST_RERUNS = 100


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
    """`owner` names this worker in its leases; heartbeats go out three times a lease.

    `labels` are of the results' series; `overrides` the destinations' own `results:`,
    and `compressions` how they take pictures.
    """

    owner: str
    lease_s: float
    labels: SeriesLabels = field(default_factory=SeriesLabels)
    overrides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compressions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A kept result, and why it must not be sent; empty where it may."""

    result: Result
    faults: tuple[str, ...]


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
        self._store, self._objects = store, objects
        self._inspector = inspector or Inspector(None)
        self._engine, self._reader = engine, reader
        self._settings, self._clock = settings, clock
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the job in hand is finished first."""
        self._stop = stop
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
            self._demand_its_model(job)
            self._produce_or_reject(job, token, log)
        except (ModelError, EncodingError, ObjectMissingError) as fault:
            store.fail(job.key, token, now(), str(fault))
            log.warning("job failed", reason=str(fault))
        except (LeaseLostError, StoreUnavailableError):
            raise
        except (OutOfMemoryError, MemoryError, StorageError, OSError) as fault:
            # The device or the disk is full or broken, or the decoder was stopped with the node:
            # not this film's doing, and no use in trying at once. But not for ever.
            if job.error.startswith(_AGAIN) and now() - job.created_at > _GIVE_UP:
                reason = f"given up after a day of {type(fault).__name__}; retry once it is mended"
                store.fail(job.key, token, now(), reason)
                log.warning("job failed", reason=reason)
                return Turn.DONE
            store.release(job.key, token, now(), f"{_AGAIN}: {type(fault).__name__}")
            log.warning("job released", error=str(fault))
            return Turn.RELEASED
        except Exception as fault:
            store.fail(job.key, token, now(), f"{type(fault).__name__}: see the log")
            log.exception("job failed")
        return Turn.DONE

    def _demand_its_model(self, job: Job) -> None:
        """UIDs and key are those of the model that the film was to be analysed by.

        Raises:
            ModelError: this worker has another, since the configuration has changed.
        """
        if job.model_digest != self._engine.model_digest:
            raise ModelError(
                f"queued for model {job.model_digest[:12]}, and the node has "
                f"{self._engine.model_digest[:12]} now; send the film again to have it analysed"
            )

    def _lasting(self, write: Callable[[], None]) -> None:
        """The job's last write, again and again while the store is away: the work is done.

        Raises:
            LeaseLostError: another worker has the job by now.
            StoreUnavailableError: the node stops meanwhile.
        """
        while True:
            try:
                return write()
            except StoreUnavailableError as fault:
                _log.warning("job store unavailable, what is made waits", error=str(fault))
                if self._stop.wait(_STORE_AWAY_S):
                    raise

    def _produce_or_reject(self, job: Job, token: int, log: FilteringBoundLogger) -> None:
        """The film's results are kept and due, or its fault is."""
        try:
            made = self._make(job)
        except (InputError, FilmError) as fault:
            self._reject(job, token, str(fault))
            log.info("job rejected", reason=str(fault))
            return
        self._produce(job, token, made)
        log.info("job produced", results=len(made))

    def _produce(self, job: Job, token: int, made: Sequence[_Made]) -> None:
        """Each result is due where it is asked for, or quarantined there for its faults."""
        quarantined = {one.result.kind: "; ".join(one.faults) for one in made if one.faults}
        for kind, wrong in quarantined.items():
            _log.error("result quarantined", job=job.key[:12], kind=kind, faults=wrong)
        self._lasting(
            lambda: self._store.produce(
                job.key,
                token,
                self._clock(),
                [one.result for one in made],
                job.destinations,
                self._addressing(job).kinds,
                quarantined,
            )
        )
        faults.reach(Point.PRODUCED)

    def _reject(self, job: Job, token: int, reason: str) -> None:
        """The job is rejected, and who asked for it is told why."""
        told = self._addressing(job).told
        notes = self._notes(job, reason) if told else []
        self._lasting(
            lambda: self._store.reject(job.key, token, self._clock(), reason, notes, told)
        )

    def _notes(self, job: Job, reason: str) -> list[Result]:
        """ "Not analysed, because…"; none where not even the film's header can be referred to."""
        try:
            header = radiograph.read_header(self._objects.local_path(job.object))
            refusal = Refusal(
                header=header,
                model=model.of(job),
                analysis_key=job.key,
                created_at=job.created_at,
                labels=self._settings.labels,
            )
            note = self._keep(job, addressing.NOTE, not_analysed.refused(refusal, reason))
        except InputError:
            return []
        return [] if note.faults else [note.result]

    def _make(self, job: Job) -> list[_Made]:
        self._objects.read(job.object)  # bytes that are no longer those received are not analysed
        film = self._reader.read(self._objects.local_path(job.object))
        known = guards.states_chest(film.header.dataset)
        request = Request(
            film=film.radiograph,
            mode=Mode(job.mode),
            seed=job.seed,
            unlike=Unlike.DOUBT if known else Unlike.REFUSE,
        )
        attribution = self._engine.explain([request])[0]
        _demand_finite(attribution)
        faults.reach(Point.ANALYSED)
        context = self._context(job, film, attribution)
        kinds = registry.kinds_for(context, self._addressing(job).asked)
        return [self._keep(job, kind, ds) for kind, ds in _built(kinds, context)]

    def _context(self, job: Job, film: Film, attribution: Attribution) -> ResultContext:
        return ResultContext(
            header=film.header,
            radiograph=film.radiograph,
            attribution=attribution,
            analysis_key=job.key,
            created_at=job.created_at,
            labels=self._settings.labels,
            predecessors=self._predecessors(job, film),
        )

    def _predecessors(self, job: Job, film: Film) -> tuple[DocumentReference, ...]:
        """Reports of the same film of the same patient by other models, the oldest first."""
        known = self._store.jobs(_MOST_RERUNS, JobState.PRODUCED, job.sop_instance_uid)
        older = [
            other
            for other in reversed(known)
            if other.identity_digest == job.identity_digest
            and other.model_digest != job.model_digest
            and other.created_at < job.created_at
        ]
        return tuple(
            DocumentReference(
                study_instance_uid=carried.text(film.header.dataset, "StudyInstanceUID"),
                series_instance_uid=result.series_instance_uid,
                sop_class_uid=result.sop_class_uid,
                sop_instance_uid=result.sop_instance_uid,
            )
            for other in older
            for result in self._store.results(other.key)
            if result.kind == "structured_report"
        )

    def _addressing(self, job: Job) -> Addressing:
        return addressing.of(job, self._settings.overrides, self._settings.compressions)

    def _keep(self, job: Job, kind: str, dataset: Dataset) -> _Made:
        data = registry.encode(dataset, self._addressing(job).compression(kind))
        faults.reach(Point.ENCODED)
        source = self._objects.local_path(job.object)
        # A worker that lost its lease may come this far: it must not touch what another has kept.
        name = f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}.dcm"
        kept = self._objects.keep(f"results/{job.key[:2]}/{job.key}/{name}", data)
        faults.reach(Point.RESULT_KEPT)
        result = Result(
            job_key=job.key,
            kind=kind,
            sop_class_uid=str(dataset.SOPClassUID),
            sop_instance_uid=str(dataset.SOPInstanceUID),
            series_instance_uid=str(dataset.SeriesInstanceUID),
            object=kept,
        )
        return _Made(result=result, faults=self._inspector.faults(dataset, data, source))

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


def _demand_finite(made: Attribution) -> None:
    """NaN is below every threshold: a map of it would look like a film without a finding.

    Raises:
        ModelError: the map or the counterpart is not all numbers, or the map is negative.
    """
    finite = np.isfinite(made.attribution_map).all() and np.isfinite(made.counterfactual).all()
    if not finite or (made.attribution_map < 0).any():
        raise ModelError("the model made no numbers of this film (NaN, infinite or negative)")


def _built(kinds: Sequence[str], context: ResultContext) -> list[tuple[str, Dataset]]:
    """Each kind's object; one that cannot be built is left out, and none is lost for it.

    Raises:
        InputError: the film cannot be referred to.
        EncodingError: no kind can be built.
    """
    built = []
    for kind in kinds:
        try:
            built.append((kind, registry.build(kind, context)))
        except (InputError, MemoryError, OSError):
            raise
        except Exception:  # the classes of films are many, and a library may know one less
            _log.exception("result left out", kind=kind, job=context.analysis_key[:12])
    if not built:
        raise EncodingError("no result could be built of this film: see the log")
    return built
