"""A job's results: decoded, explained, encoded, checked, kept."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog
from pydicom import Dataset

from dicom_node import radiograph
from dicom_node.config import SeriesLabels
from dicom_node.errors import EncodingError, InputError, InspectionError
from dicom_node.radiograph import Film
from dicom_node.results import carried, not_analysed, registry
from dicom_node.results.inspection import Inspector
from dicom_node.results.not_analysed import Refusal
from dicom_node.results.provenance import DocumentReference, ResultContext
from dicom_node.routing import guards
from dicom_node.work import addressing, model, source
from dicom_node.work.addressing import Addressing
from dicom_node.work.patience import Patience
from pipeline import shortage
from pipeline.engine.base import Engine, Request
from pipeline.errors import ModelError
from pipeline.types import Attribution, Mode, Unlike
from storage import faults
from storage.errors import ObjectMissingError
from storage.faults import Point
from storage.jobs import Job, Result
from storage.objects import ObjectStore, is_whole
from storage.states import JobState
from storage.store import JobStore

_log = structlog.get_logger()

_MOST_RERUNS = 100

_LEFT_OUT = "left out, see the log: "
"""How the error of a job begins whose results are not all that there should be."""


class FilmReader(Protocol):
    """Reads a kept file into a film, wherever the decoding runs."""

    def read(self, path: Path) -> Film:
        """The film. Raises InputError."""
        ...


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
class Made:
    """A kept result, and why it must not be sent; empty where it may.

    One that dciodvfy could not judge is not `inspected`: only our own check has passed it.
    """

    result: Result
    faults: tuple[str, ...]
    inspected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MakerSettings:
    """How results are made, and for whom.

    `labels` are of the results' series; `overrides` the destinations' own `results:`,
    and `compressions` how they take pictures. `waived` are the guards that each rule lets pass.
    """

    labels: SeriesLabels = field(default_factory=SeriesLabels)
    overrides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compressions: Mapping[str, str] = field(default_factory=dict)
    waived: Mapping[str, Collection[str]] = field(default_factory=dict)


class Maker:
    """Makes a job's results, and keeps their files; its row is the worker's."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        engine: Engine,
        reader: FilmReader,
        settings: MakerSettings,
        inspector: Inspector,
        patience: Patience,
    ) -> None:
        self._store, self._objects, self._patience = store, objects, patience
        self._engine, self._reader = engine, reader
        self._settings, self._inspector = settings, inspector

    def make(self, job: Job) -> tuple[list[Made], str]:
        """The kept results, and what was left out in words."""
        path = self._source(job)
        self._demand_admitted(job, path)
        film = self._reader.read(path)
        known = guards.states_chest(film.header.dataset)
        request = Request(
            film=film.radiograph,
            mode=Mode(job.mode),
            seed=job.seed,
            unlike=Unlike.WITHHOLD if known else Unlike.REFUSE,
        )
        attribution = self._engine.explain([request])[0]
        _demand_numbers(attribution)
        faults.reach(Point.ANALYSED)
        context = self._context(job, film, attribution)
        earlier = self._earlier(job)
        built = _built(registry.kinds_for(context, self._wanted(job, earlier)), context)
        made = [self._keep_once(job, kind, ds, path, earlier) for kind, ds in built.objects.items()]
        return made, built.left_out

    def notes(self, job: Job, reason: str) -> list[Made]:
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

    def addressing(self, job: Job) -> Addressing:
        """Which results are for whom."""
        return addressing.of(job, self._settings.overrides, self._settings.compressions)

    def _wanted(self, job: Job, earlier: Mapping[str, Result]) -> Collection[str]:
        """What is to be made: at another time what was lost, left out, or promised since.

        What a job of an older program had promised is not known: no more than there was.
        """
        asked = self.addressing(job).asked
        if not earlier or job.error.startswith(_LEFT_OUT):
            return asked
        return {*earlier, *(asked if job.promised else ())}

    def _earlier(self, job: Job) -> dict[str, Result]:
        """What was made at an earlier time, by kind: there is some where a kept file was lost.

        Notes are none of it: they say that the film, or one before it, was rejected at that time.
        """
        every = self._results(job.key)
        return {made.kind: made for made in every if made.kind != addressing.NOTE}

    def _results(self, key: str) -> list[Result]:
        return self._patience.ask(lambda: self._store.results(key))

    def _kept_as(self, job: Job, uid: str) -> Made | None:
        """The job's result of this UID, if its file is whole."""
        same = (made for made in self._results(job.key) if made.sop_instance_uid == uid)
        whole = (made for made in same if is_whole(self._objects, made.object))
        return next((Made(result=made, faults=(), inspected=True) for made in whole), None)

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
        ask, store = self._patience.ask, self._store
        found = source.film_of(self._objects, job, lambda: ask(lambda: source.others(store, job)))
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
        known = self._patience.ask(
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
            for result in self._results(other.key)
            if result.kind == "structured_report"
        )

    def _keep_once(
        self, job: Job, kind: str, dataset: Dataset, film: Path, earlier: Mapping[str, Result]
    ) -> Made:
        """The result of an earlier time while its file is whole, else this one under its UID.

        Raises:
            EncodingError: it would have another UID, and be a second one where the first arrived.
        """
        made = earlier.get(kind)
        if made is None:
            return self._keep(job, kind, dataset, film)
        if is_whole(self._objects, made.object):
            return Made(result=made, faults=(), inspected=True)
        if made.sop_instance_uid != dataset.SOPInstanceUID:
            raise EncodingError(
                f"The {kind} was made by another version of this program, under another UID, and "
                "its kept file is gone."
            )
        return self._keep(job, kind, dataset, film)

    def _keep(self, job: Job, kind: str, dataset: Dataset, film: Path) -> Made:
        data = registry.encode(dataset, self.addressing(job).compression(kind))
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
            return Made(result=result, faults=(), inspected=False)
        return Made(result=result, faults=wrong, inspected=True)


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
        except Exception as fault:
            if shortage.lacking(fault):
                raise
            _log.exception("result left out", kind=kind, job=context.analysis_key[:12])
    if not built:
        raise EncodingError("no result could be built of this film: see the log")
    return _Built(objects=built, broken=tuple(kind for kind in kinds if kind not in built))
