"""The model of a job, as far as its row knows it."""

from dicom_node import uids
from pipeline.types import Mode, ModelIdentity
from storage.jobs import Job

NOTICE = "model"
"""The notice that holds the digest of the model that films are routed for."""


def of(job: Job) -> ModelIdentity:
    """The model that made, or would have made, the results; the row has no name, but its digest."""
    return ModelIdentity(
        name="model",
        version=job.model_digest[:12],
        digest=job.model_digest,
        mode=Mode(job.mode),
        seed=job.seed,
        method_version=uids.METHOD_VERSION,
    )
