"""The model of a job, as far as its row knows it, and the one that films are routed for."""

from datetime import datetime

from pipeline.types import Mode, ModelIdentity
from storage.jobs import Job
from storage.store import JobStore

_NOTICE = "model"


def of(job: Job) -> ModelIdentity:
    """The model that made, or would have made, the results; the row has no name, but its digest.

    Nor has it the method's version: an older program may have made them.
    """
    return ModelIdentity(
        name="model",
        version=job.model_digest[:12],
        digest=job.model_digest,
        mode=Mode(job.mode),
        seed=job.seed,
        method_version="",
    )


def announce(store: JobStore, digest: str, now: datetime) -> None:
    """Films are routed for the model of this digest from now on."""
    store.post(_NOTICE, digest, now)


def is_in_use(store: JobStore, digest: str) -> bool:
    """Whether films are routed for the model of this digest."""
    said = store.notice(_NOTICE)
    return said is not None and said.text == digest
