"""Keys and UIDs by role, all derived: the same analysis has the same key and the same UIDs."""

import hashlib
import uuid
from dataclasses import dataclass

from pydicom import Dataset

from dicom_node import attributes

RESULTS_VERSION = "8"
"""Raised whenever the same model would give another map or another object of the same film."""

_IDENTITY = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyInstanceUID",
    "AccessionNumber",
)
_SEPARATOR = "\x1f"  # cannot occur in a DICOM text value (PS3.5 6.1.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisInputs:
    """Everything that decides the outcome of an analysis."""

    sop_instance_uid: str
    identity_digest: str
    target: str
    model_digest: str
    calibration_digest: str
    mode: str
    seed: int


def identity_digest(header: Dataset) -> str:
    """SHA-256 over what identifies patient and study, as hexadecimal."""
    return _digest(*(attributes.text(header, keyword) for keyword in _IDENTITY))


def analysis_key(inputs: AnalysisInputs) -> str:
    """The job's key: SHA-256 over the inputs and the method's version, as hexadecimal."""
    return _digest(
        inputs.sop_instance_uid,
        inputs.identity_digest,
        inputs.target,
        inputs.model_digest,
        inputs.calibration_digest,
        inputs.mode,
        str(inputs.seed),
        RESULTS_VERSION,
    )


def result_uid(key: str, kind: str, template_digest: str, revision: int = 0) -> str:
    """SOP Instance UID of one result object of an analysis."""
    return _uuid_uid(_digest("result", key, kind, template_digest, str(revision)))


def series_uid(study_uid: str, kind: str, model_digest: str, revision: int = 0) -> str:
    """Series Instance UID that a study's results of one kind and model share."""
    return _uuid_uid(_digest("series", study_uid, kind, model_digest, str(revision)))


def device_uid(model_digest: str) -> str:
    """Device UID of the node with this model (PS3.16 TID 1004)."""
    return _uuid_uid(_digest("device", model_digest))


def random_uid() -> str:
    """A UID that is nobody else's (PS3.5 B.2): of what happens once, such as a transaction."""
    return f"2.25.{uuid.uuid4().int}"


def _digest(*parts: str) -> str:
    return hashlib.sha256(_SEPARATOR.join(parts).encode()).hexdigest()


def _uuid_uid(digest: str) -> str:
    """2.25 and a UUID as integer (PS3.5 B.2): version 8 (RFC 9562), of the digest's first bits."""
    raw = bytearray(bytes.fromhex(digest)[:16])
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(raw)).int}"
