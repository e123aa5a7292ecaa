"""Rows to dataclasses, and back."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping, Table

from storage.jobs import (
    Delivery,
    DestinationHealth,
    Job,
    Lease,
    NewJob,
    NewReceived,
    ObjectRef,
    Received,
    Result,
)
from storage.schema import jobs, received, results
from storage.states import DeliveryState, JobState


def object_values(ref: ObjectRef) -> dict[str, object]:
    """The columns of a kept object."""
    return {"object_name": ref.name, "digest": ref.digest, "size_bytes": ref.size_bytes}


def _object(row: RowMapping) -> ObjectRef:
    return ObjectRef(name=row["object_name"], digest=row["digest"], size_bytes=row["size_bytes"])


def _plain(value: object, table: Table) -> dict[str, object]:
    """The fields of a dataclass that are columns of the same name."""
    return {c.name: getattr(value, c.name) for c in table.columns if hasattr(value, c.name)}


def _picked(row: RowMapping, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def received_values(new: NewReceived) -> dict[str, object]:
    """The row of an instance that no rule has seen."""
    return {**_plain(new, received), **object_values(new.object), "decision": "", "job_key": ""}


def received_of(row: RowMapping) -> Received:
    """The recorded instance of a row."""
    names = ("number", "sop_class_uid", "sop_instance_uid", "transfer_syntax_uid")
    more = ("calling_ae_title", "address", "received_at", "decision", "job_key")
    last = row["arrived_at"] or row["received_at"]  # empty where it came once
    return Received(**_picked(row, *names, *more), arrived_at=last, object=_object(row))


def promised_value(promised: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """As the column holds it."""
    return {name: list(kinds) for name, kinds in promised.items()}


def job_values(job: NewJob) -> dict[str, object]:
    """The row of a job that waits for its first claim."""
    return {
        **_plain(job, jobs),
        **object_values(job.object),
        "results": list(job.results),
        "destinations": list(job.destinations),
        "promised": promised_value(job.promised),
        "state": JobState.RECEIVED,
        "attempts": 0,
        "error": "",
        "updated_at": job.created_at,
        "lease_token": 0,
    }


def job_of(row: RowMapping) -> Job:
    """The job of a row."""
    names = ("key", "sop_instance_uid", "identity_digest", "calling_ae_title", "rule", "target")
    more = ("model_digest", "mode", "seed", "supersedes", "created_at", "attempts", "error")
    return Job(
        **_picked(row, *names, *more, "updated_at"),
        object=_object(row),
        results=tuple(row["results"]),
        destinations=tuple(row["destinations"]),
        promised={name: tuple(kinds) for name, kinds in (row["promised"] or {}).items()},
        state=JobState(row["state"]),
        lease=_lease(row),
    )


def _lease(row: RowMapping) -> Lease | None:
    if row["lease_until"] is None:
        return None
    return Lease(owner=row["lease_owner"], token=row["lease_token"], until=row["lease_until"])


def result_values(result: Result) -> dict[str, object]:
    """The row of a result, without its position."""
    return {**_plain(result, results), **object_values(result.object)}


def result_of(row: RowMapping) -> Result:
    """The result of a row."""
    names = ("job_key", "kind", "sop_class_uid", "sop_instance_uid", "series_instance_uid")
    return Result(**_picked(row, *names), object=_object(row))


def delivery_of(row: RowMapping) -> Delivery:
    """The delivery of a row."""
    names = ("job_key", "sop_instance_uid", "destination", "attempts", "next_attempt_at", "reason")
    more = ("status", "transaction_uid", "asked", "promised")
    return Delivery(**_picked(row, *names, *more), state=DeliveryState(row["state"]))


def destination_of(row: RowMapping) -> DestinationHealth:
    """The health of a row."""
    return DestinationHealth(**_picked(row, "name", "held", "failures", "retry_at", "reason"))
