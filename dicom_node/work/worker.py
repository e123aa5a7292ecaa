"""One job from claim to results: decode, explain, encode, keep, produce."""

import faulthandler
import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import structlog
from pydicom import Dataset
from structlog.typing import FilteringBoundLogger

from dicom_node import radiograph
from dicom_node.config import SeriesLabels
from dicom_node.errors import DecoderError, EncodingError, InputError, InspectionError
from dicom_node.radiograph import Film
from dicom_node.results import carried, not_analysed, registry
from dicom_node.results.inspection import Inspector
from dicom_node.results.not_analysed import Refusal
from dicom_node.results.provenance import DocumentReference, ResultContext
from dicom_node.routing import guards
from dicom_node.work import addressing, model, source
from dicom_node.work.addressing import Addressing
from pipeline.engine.base import Engine, Request
from pipeline.errors import FilmError, ModelError, OutOfMemoryError
from pipeline.types import Attribution, Mode, Unlike
from storage import faults
from storage.errors import (
    LeaseLostError,
    ObjectMissingError,
    ObjectsUnavailableError,
    StorageError,
    StoreUnavailableError,
)
from storage.faults import Point
from storage.jobs import Job, Result
from storage.objects import ObjectStore, is_whole
from storage.states import JobState
from storage.store import JobStore

_log = structlog.get_logger()

_STORE_AWAY_S = 5.0
_GIVE_UP = timedelta(days=1)
_MOST_RERUNS = 100
_STANDARD_ERROR = 2


_T = TypeVar("_T")


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

    A film whose decoder was killed `max_attempts` times has failed. A process that makes one job's
    results for `limit_s` hangs, and ends. A write that the database does not take is made again
    every `again_s`.

    `labels` are of the results' series; `overrides` the destinations' own `results:`,
    and `compressions` how they take pictures. `waived` are the guards that each rule lets pass.
    """

    owner: str
    lease_s: float
    max_attempts: int = 3
    limit_s: float = 1800.0
    again_s: float = 1.0
    labels: SeriesLabels = field(default_factory=SeriesLabels)
    overrides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compressions: Mapping[str, str] = field(default_factory=dict)
    waived: Mapping[str, Collection[str]] = field(default_factory=dict)


_LEFT_OUT = "left out, see the log: "
"""How the error of a job begins whose results are not all that there should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    """The objects of a film, by kind in their order, and the kinds of those that broke."""

    objects: Mapping[str, Dataset]
    broken: tuple[str, ...]

    @property
    def left_out(self) -> str:
        """In words; empty where nothing was."""
        return _LEFT_OUT + ", ".join(self.broken) if self.broken else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A kept result, and why it must not be sent; empty where it may.

    One that dciodvfy could not judge is not `inspected`: only our own check has passed it.
    """

    result: Result
    faults: tuple[str, ...]
    inspected: bool


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
        self._troubled: dict[str, datetime] = {}

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
        turn = self._end(job, token, log)
        if turn is Turn.DONE:
            self._troubled.pop(job.key, None)
        return turn

    def _end(self, job: Job, token: int, log: FilteringBoundLogger) -> Turn:
        if job.model_digest != self._engine.model_digest:
            return self._reroute(job, token, log)
        try:
            self._produce_or_reject(job, token, log)
        except (ModelError, EncodingError, ObjectMissingError) as fault:
            self._fail(job, token, str(fault))
        except (LeaseLostError, StoreUnavailableError):
            raise
        except ObjectsUnavailableError as fault:
            return self._let_go(job, token, fault)  # until they are back, however long it takes
        except DecoderError as fault:
            return self._count(job, token, str(fault))
        except (OutOfMemoryError, MemoryError, StorageError, OSError) as fault:
            # The device or the disk is full or broken, or the decoder was stopped with the node:
            # not this film's doing, and no use in trying at once. But not for ever.
            return self._release(job, token, fault)
        except Exception as fault:
            log.exception("job failed")
            self._fail(job, token, f"{type(fault).__name__}: see the log")
        return Turn.DONE

    def _reroute(self, job: Job, token: int, log: FilteringBoundLogger) -> Turn:
        """Results are of the model that their job names: the film is routed for this one.

        Another model's would have UIDs that say it was the first's, and a resend would double them.
        """
        mine = self._engine.model_digest
        if not self._patiently(lambda: model.is_in_use(self._store, mine)):
            # The film would come back for ever. Films are routed for the model of the node's start.
            why = ModelError("the model was changed under the running node: start it again")
            return self._let_go(job, token, why)
        reason = f"the model is now {mine[:12]}; the film is analysed by that"
        self._patiently(lambda: self._store.reroute(job.key, token, self._clock(), reason))
        log.warning("job rerouted", reason=reason)
        return Turn.DONE

    def _fail(self, job: Job, token: int, reason: str) -> None:
        self._patiently(lambda: self._store.fail(job.key, token, self._clock(), reason))
        _log.warning("job failed", job=job.key[:12], reason=reason)

    def _count(self, job: Job, token: int, reason: str) -> Turn:
        """Try again what may be the film's fault, and fail it once it was tried often enough."""
        if job.attempts >= self._settings.max_attempts:
            self._fail(job, token, f"{reason} So it was {job.attempts} times.")
            return Turn.DONE
        store, why = self._store, f"to be tried again: {reason}"
        self._patiently(lambda: store.release(job.key, token, self._clock(), why, counted=True))
        _log.warning("job released", job=job.key[:12], reason=reason)
        return Turn.RELEASED

    def _release(self, job: Job, token: int, fault: Exception) -> Turn:
        """Try again what is the moment's fault, for a day from the first time that it was."""
        now, kind = self._clock(), type(fault).__name__
        if now - self._troubled.setdefault(job.key, now) > _GIVE_UP:
            self._fail(job, token, f"given up after a day of {kind}; retry once it is mended")
            return Turn.DONE
        return self._let_go(job, token, fault)

    def _let_go(self, job: Job, token: int, fault: Exception) -> Turn:
        """The job waits again, and no attempt was spent."""
        store, why = self._store, f"to be tried again: {type(fault).__name__}"
        self._patiently(lambda: store.release(job.key, token, self._clock(), why))
        _log.warning("job released", job=job.key[:12], error=str(fault))
        return Turn.RELEASED

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """What the store answers, however long its database is away.

        Neither what was made nor the attempt is lost for that: heartbeats go on beside it.

        Raises:
            LeaseLostError: the job is another worker's now.
            StoreUnavailableError: the database is away, and the worker was told to stop.
        """
        while True:
            try:
                return ask()
            except StoreUnavailableError as fault:
                _log.warning("job store unavailable", error=str(fault))
                if self._stop.wait(self._settings.again_s):
                    raise

    def _produce_or_reject(self, job: Job, token: int, log: FilteringBoundLogger) -> None:
        """The film's results are kept and due, or its fault is."""
        try:
            with _limited(self._settings.limit_s):
                made, left_out = self._make(job)
        except (InputError, FilmError) as fault:
            self._reject(job, token, str(fault))
            log.info("job rejected", reason=str(fault))
            return
        self._produce(job, token, made, left_out)
        log.info(
            "job produced", results=len(made), not_inspected=sum(not one.inspected for one in made)
        )

    def _produce(self, job: Job, token: int, made: Sequence[_Made], left_out: str) -> None:
        """Each result is due where it is asked for, or quarantined there for its faults."""
        quarantined = _quarantined(job, made)
        results, kinds = [one.result for one in made], self._addressing(job).kinds
        self._patiently(
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
        told = self._addressing(job).told
        notes = self._notes(job, reason) if told else []
        self._patiently(
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

    def _notes(self, job: Job, reason: str) -> list[_Made]:
        """ "Not analysed, because…"; none where not even the film's header can be referred to.

        Nor where results were made of it at an earlier time, which may have arrived. Where the same
        was said, that is for whoever was not told.
        """
        if self._earlier(job):
            return []
        try:
            path = self._source(job)
            header = radiograph.read_header(path)
            refusal = Refusal(
                header=header,
                model=model.of(job),
                analysis_key=job.key,
                created_at=job.created_at,
                labels=self._settings.labels,
            )
            note = not_analysed.refused(refusal, reason)
            said = self._kept_as(job, str(note.SOPInstanceUID))
            return [said or self._keep(job, addressing.NOTE, note, path)]
        except InputError:
            return []

    def _make(self, job: Job) -> tuple[list[_Made], str]:
        """The kept results, and what was left out in words."""
        path = self._source(job)
        self._demand_admitted(job, path)
        film = self._reader.read(path)
        known = guards.states_chest(film.header.dataset)
        request = Request(
            film=film.radiograph,
            mode=Mode(job.mode),
            seed=job.seed,
            unlike=Unlike.DOUBT if known else Unlike.REFUSE,
        )
        attribution = self._engine.explain([request])[0]
        _demand_numbers(attribution)
        faults.reach(Point.ANALYSED)
        context = self._context(job, film, attribution)
        earlier = self._earlier(job)
        built = _built(registry.kinds_for(context, self._wanted(job, earlier)), context)
        made = [self._keep_once(job, kind, ds, path, earlier) for kind, ds in built.objects.items()]
        return made, built.left_out

    def _wanted(self, job: Job, earlier: Mapping[str, Result]) -> Collection[str]:
        """What is to be made: at another time what was lost, left out, or promised since.

        What a job of an older program had promised is not known: no more than there was.
        """
        asked = self._addressing(job).asked
        if not earlier or job.error.startswith(_LEFT_OUT):
            return asked
        return {*earlier, *(asked if job.promised else ())}

    def _earlier(self, job: Job) -> dict[str, Result]:
        """What was made at an earlier time, by kind: there is some where a kept file was lost.

        Notes are none of it: they say that the film, or one before it, was rejected at that time.
        """
        every = self._patiently(lambda: self._store.results(job.key))
        return {made.kind: made for made in every if made.kind != addressing.NOTE}

    def _kept_as(self, job: Job, uid: str) -> _Made | None:
        """The job's result of this UID, if its file is whole."""
        every = self._patiently(lambda: self._store.results(job.key))
        same = (made for made in every if made.sop_instance_uid == uid)
        whole = (made for made in same if is_whole(self._objects, made.object))
        return next((_Made(result=made, faults=(), inspected=True) for made in whole), None)

    def _demand_admitted(self, job: Job, path: Path) -> None:
        """No guard of the job's rule is against the film; a job may be there for its note only.

        Raises:
            InputError: the guard's reason.
        """
        if job.rule not in self._settings.waived:
            return  # the rule has gone since
        header = radiograph.read_header(path).dataset
        if reason := guards.first_reason(header, self._settings.waived[job.rule]):
            raise InputError(reason)

    def _source(self, job: Job) -> Path:
        """A kept film of the job, which is what was received, bit by bit."""
        found = self._patiently(lambda: source.film_of(self._store, self._objects, job))
        if found is None:
            raise ObjectMissingError("the kept file is gone or damaged: send the film again")
        return self._objects.local_path(found)

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
        known = self._patiently(
            lambda: self._store.jobs(_MOST_RERUNS, JobState.PRODUCED, job.sop_instance_uid)
        )
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

    def _keep_once(
        self, job: Job, kind: str, dataset: Dataset, film: Path, earlier: Mapping[str, Result]
    ) -> _Made:
        """The result of an earlier time while its file is whole, else this one under its UID.

        Raises:
            EncodingError: it would have another UID, and be a second one where the first arrived.
        """
        made = earlier.get(kind)
        if made is None:
            return self._keep(job, kind, dataset, film)
        if is_whole(self._objects, made.object):
            return _Made(result=made, faults=(), inspected=True)
        if made.sop_instance_uid != dataset.SOPInstanceUID:
            raise EncodingError(
                f"The {kind} was made by another version of this program, under another UID, and "
                "its kept file is gone."
            )
        return self._keep(job, kind, dataset, film)

    def _keep(self, job: Job, kind: str, dataset: Dataset, film: Path) -> _Made:
        data = registry.encode(dataset, self._addressing(job).compression(kind))
        faults.reach(Point.ENCODED)
        # By its digest: a late worker, whose row will not be written, replaces nobody's file.
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
        try:
            wrong = self._inspector.faults(dataset, data, film)
        except InspectionError as fault:
            _log.error("result not inspected", job=job.key[:12], kind=kind, reason=str(fault))
            return _Made(result=result, faults=(), inspected=False)
        return _Made(result=result, faults=wrong, inspected=True)

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


def _demand_numbers(made: Attribution) -> None:
    """Maps and score are numbers: NaN is below every threshold and would look like no finding.

    Raises:
        ModelError: something is not finite, or the map is negative.
    """
    maps = (made.attribution_map, made.counterfactual, made.difference)
    if not all(np.isfinite(values).all() for values in (*maps, made.score, made.threshold)):
        raise ModelError("The model gave values that are not finite.")
    if (made.attribution_map < 0).any():
        raise ModelError("The model gave a negative attribution.")


@contextmanager
def _limited(limit_s: float) -> Iterator[None]:
    """This process ends if the block takes longer, whatever it hangs in; its leases are then free.

    By faulthandler's watchdog, which needs no interpreter lock; what it writes to standard error
    are the names of functions, no values.
    """
    faulthandler.dump_traceback_later(limit_s, exit=True, file=_STANDARD_ERROR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _quarantined(job: Job, made: Sequence[_Made]) -> dict[str, str]:
    """Why, by kind, some of these must not be sent; each is logged."""
    found = {one.result.kind: "; ".join(one.faults) for one in made if one.faults}
    for kind, wrong in found.items():
        _log.error("result quarantined", job=job.key[:12], kind=kind, faults=wrong)
    return found


def _built(kinds: Sequence[str], context: ResultContext) -> _Built:
    """Each kind's object; one that cannot be built is left out, and none is lost for it.

    Raises:
        InputError: the film cannot be referred to.
        EncodingError: no kind can be built.
    """
    built: dict[str, Dataset] = {}
    for kind in kinds:
        try:
            built[kind] = registry.build(kind, context)
        except (InputError, MemoryError, OSError):
            raise
        except Exception:  # noqa: BLE001 - the classes of films are many, and a library may know one less
            _log.exception("result left out", kind=kind, job=context.analysis_key[:12])
    if not built:
        raise EncodingError("no result could be built of this film: see the log")
    return _Built(objects=built, broken=tuple(kind for kind in kinds if kind not in built))
