"""`vald-node retract`: an IOCM rejection note for every result of a recalled model."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from pydicom import Dataset

from dicom_node import wiring
from dicom_node.admin import retrial
from dicom_node.errors import ConfigError, EncodingError, InputError, InspectionError
from dicom_node.radiograph import SourceHeader, read_header
from dicom_node.results import carried, inspection, registry, rejection_note
from dicom_node.results.inspection import Inspector
from dicom_node.results.not_analysed import Refusal
from dicom_node.results.provenance import DocumentReference
from dicom_node.work import model
from pipeline.digest import folder_of, model_digest
from storage.errors import ObjectMissingError
from storage.jobs import EVERY, RECALLED, REJECTION_NOTE, Job, ObjectRef, Result
from storage.objects import ObjectStore
from storage.states import JobState
from storage.store import JobStore

_log = structlog.get_logger()

_OPEN = (JobState.RECEIVED, JobState.RUNNING)
_LEAST_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Retracted:
    """How many films of the model have a note now that had none, and how many results it names.

    `unnamed` are the SOP Instance UIDs of results that no note could be made for, since neither
    they nor their film are kept any more, or since the note had a fault; `open` counts films whose
    analysis has not ended, and `in_use` says whether the node is configured to go on with this
    model.
    """

    model_digest: str
    films: int
    results: int
    unnamed: tuple[str, ...]
    open: int
    in_use: bool

    @property
    def complete(self) -> bool:
        """Whether nothing of the model is left to do."""
        return not (self.unnamed or self.open or self.in_use)


def retract(path: Path, environ: Mapping[str, str], digest: str, now: datetime) -> Retracted:
    """Every result of the model whose digest begins so is named in a note that is due.

    What of them was not sent yet never will be. A second call changes nothing, but that a note
    whose kept file is gone before it has arrived is made again. A film whose note cannot be made
    holds up no other.

    Raises:
        ConfigError: no model, or more than one, has such a digest.
    """
    settings = wiring.read_config(path, environ)
    store = wiring.open_kept_store(settings)
    try:
        objects = wiring.open_objects(settings, store)
        jobs = _jobs_of(store, digest.lower().removeprefix("sha256:"))
        done = [_retract(store, objects, job, now) for job in jobs]
    finally:
        store.close()
    recalled = jobs[0].model_digest
    return Retracted(
        model_digest=recalled,
        films=sum(one.named > 0 for one in done),
        results=sum(one.named for one in done),
        unnamed=tuple(uid for one in done for uid in one.unnamed),
        open=sum(job.state in _OPEN for job in jobs),
        in_use=model_digest(folder_of(settings.model.path)) == recalled,
    )


def _jobs_of(store: JobStore, digest: str) -> list[Job]:
    if len(digest) < _LEAST_DIGITS:
        raise ConfigError(f"write at least {_LEAST_DIGITS} digits of the model's digest")
    jobs = [job for job in store.jobs(EVERY) if job.model_digest.startswith(digest)]
    models = {job.model_digest for job in jobs}
    if len(models) != 1:
        raise ConfigError(f"{len(models)} models have a digest that begins with {digest}")
    return jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """Of one film: how many results its new note names, or which ones could not be named."""

    named: int = 0
    unnamed: tuple[str, ...] = ()


def _retract(store: JobStore, objects: ObjectStore, job: Job, now: datetime) -> _Done:
    every = store.results(job.key)
    results = [made for made in every if made.kind != REJECTION_NOTE]
    noted = len(every) > len(results) and not retrial.lost(store, objects, job)
    if noted or not results:
        return _Done()
    unnamed = _Done(unnamed=tuple(made.sop_instance_uid for made in results))
    kept = _header(objects, [*(made.object for made in results), job.object])
    if kept is None:
        return unnamed
    try:
        note = _note(objects, kept, job, results, now)
    except EncodingError as fault:
        _log.error("rejection note has a fault", job=job.key[:12], faults=str(fault))
        return unnamed
    # In the order in which the job's results went there.
    places = list(dict.fromkeys(delivery.destination for delivery in store.deliveries(job.key)))
    store.retract(note, places, now, RECALLED)
    return _Done(named=len(results))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A kept object, and what it says of patient and study."""

    path: Path
    header: SourceHeader


def _header(objects: ObjectStore, kept: list[ObjectRef]) -> _Kept | None:
    """The first that is whole: a result as it was filed, or the film."""
    for ref in kept:
        with suppress(ObjectMissingError, InputError, OSError):
            path = objects.local_path(ref)
            return _Kept(path=path, header=read_header(path))
    return None


def _note(
    objects: ObjectStore, kept: _Kept, job: Job, results: list[Result], now: datetime
) -> Result:
    """The note, kept. Raises EncodingError where it has a fault that is ours."""
    header = kept.header
    refusal = Refusal(header=header, model=model.of(job), analysis_key=job.key, created_at=now)
    ds = rejection_note.build(refusal, [_reference(header, made) for made in results])
    data = registry.encode_checked(ds)
    _inspect(ds, data, kept.path)
    return Result(
        job_key=job.key,
        kind=REJECTION_NOTE,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        object=objects.keep(f"results/{job.key[:2]}/{job.key}/{REJECTION_NOTE}.dcm", data),
    )


def _inspect(ds: Dataset, data: bytes, source: Path) -> None:
    """A recall does not wait for a validator that does not judge; it is logged."""
    try:
        if wrong := Inspector(inspection.installed()).faults(ds, data, source):
            raise EncodingError("; ".join(wrong))
    except InspectionError as fault:
        _log.error("result not inspected", kind=REJECTION_NOTE, reason=str(fault))


def _reference(header: SourceHeader, made: Result) -> DocumentReference:
    return DocumentReference(
        study_instance_uid=carried.text(header.dataset, "StudyInstanceUID"),
        series_instance_uid=made.series_instance_uid,
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
    )
