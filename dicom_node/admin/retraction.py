"""`vald-node retract`: an IOCM rejection note for every result of a recalled model."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicom_node import node
from dicom_node.errors import ConfigError
from dicom_node.radiograph import SourceHeader, read_header
from dicom_node.results import carried, registry, rejection_note
from dicom_node.results.not_analysed import Refusal
from dicom_node.results.provenance import DocumentReference
from dicom_node.work import model
from storage.jobs import Job, Result
from storage.objects import ObjectStore
from storage.store import JobStore

_ALL = 1 << 31
_LEAST_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Retracted:
    """How many films of the model have a note now that had none, and how many results it names."""

    model_digest: str
    films: int
    results: int


def retract(path: Path, environ: Mapping[str, str], digest: str, now: datetime) -> Retracted:
    """Every result of the model whose digest begins so is named in a note that is due.

    What of them was not sent yet never will be. A second call changes nothing.

    Raises:
        ConfigError: no model, or more than one, has such a digest.
    """
    settings = node.read_config(path, environ)
    store, objects = node.open_store(settings), node.open_objects(settings)
    try:
        jobs = _jobs_of(store, digest.removeprefix("sha256:").lower())
        counts = [_retract(store, objects, job, now) for job in jobs]
    finally:
        store.close()
    films = sum(count > 0 for count in counts)
    return Retracted(model_digest=jobs[0].model_digest, films=films, results=sum(counts))


def _jobs_of(store: JobStore, digest: str) -> list[Job]:
    if len(digest) < _LEAST_DIGITS:
        raise ConfigError(f"write at least {_LEAST_DIGITS} digits of the model's digest")
    jobs = [job for job in store.jobs(_ALL) if job.model_digest.startswith(digest)]
    models = {job.model_digest for job in jobs}
    if len(models) != 1:
        raise ConfigError(f"{len(models)} models have a digest that begins with {digest}")
    return jobs


def _retract(store: JobStore, objects: ObjectStore, job: Job, now: datetime) -> int:
    """How many results the job's new note names; 0 if there are none, or a note already."""
    results = [made for made in store.results(job.key) if made.kind != rejection_note.SERIES.kind]
    if not results:
        return 0
    note = _note(objects, job, results, now)
    # In the order in which the job's results went there.
    places = list(dict.fromkeys(delivery.destination for delivery in store.deliveries(job.key)))
    added = store.retract(note, places, now, "its model was recalled")
    return len(results) if added else 0


def _note(objects: ObjectStore, job: Job, results: list[Result], now: datetime) -> Result:
    # A result has the patient and study that it was filed under, and stays when films are purged.
    header = read_header(objects.local_path(results[0].object))
    refusal = Refusal(header=header, model=model.of(job), analysis_key=job.key, created_at=now)
    ds = rejection_note.build(refusal, [_reference(header, made) for made in results])
    kind = rejection_note.SERIES.kind
    data = registry.encode_checked(ds)
    return Result(
        job_key=job.key,
        kind=kind,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        object=objects.keep(f"results/{job.key[:2]}/{job.key}/{kind}.dcm", data),
    )


def _reference(header: SourceHeader, made: Result) -> DocumentReference:
    return DocumentReference(
        study_instance_uid=carried.text(header.dataset, "StudyInstanceUID"),
        series_instance_uid=made.series_instance_uid,
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
    )
