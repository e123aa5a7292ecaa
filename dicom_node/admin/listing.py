"""`vald-node jobs`: every received film, where it stands and why."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dicom_node import wiring
from dicom_node.admin.cells import as_text
from storage.jobs import EVERY, Delivery, Job, Received, is_owed
from storage.states import ARRIVED, DeliveryState, JobState
from storage.store import JobStore


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmLine:
    """One line of the list: a job, or a film that was decided upon without one.

    `state` is derived from the job and its deliveries; `error` says why there is no result, or
    why a delivery waits.
    """

    key: str
    state: str
    source_sop_instance_uid: str
    calling_ae_title: str
    rule: str
    attempts: int
    error: str
    received_at: datetime
    updated_at: datetime
    deliveries: tuple[dict[str, object], ...]

    def as_json(self) -> dict[str, object]:
        """As `jobs --json` prints it; times in ISO 8601, UTC."""
        values = asdict(self)
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in values.items()}


def films(
    path: Path, environ: Mapping[str, str], *, limit: int, state: StrEnum | None
) -> list[FilmLine]:
    """The newest films with what became of them; a resend is on the line of its job."""
    settings = wiring.read_config(path, environ)
    store = wiring.open_kept_store(settings)
    try:
        # A state is derived from a job and its deliveries, so all must be looked at to find one.
        looked_at = limit if state is None else EVERY
        promising = settings.promising
        lines = [*_job_lines(store, looked_at, promising), *_decision_lines(store, looked_at)]
    finally:
        store.close()
    chosen = [line for line in lines if state is None or line.state == state]
    return sorted(chosen, key=lambda line: line.received_at, reverse=True)[:limit]


def print_table(lines: Sequence[FilmLine]) -> None:
    """The list as a table, no patient data in it."""
    table = Table(box=None, pad_edge=False)
    for title in ("key", "state", "received (UTC)", "from", "rule", "tries"):
        table.add_column(title, no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for line in lines:
        when = line.received_at.strftime("%m-%d %H:%M:%S")
        cells = (line.key[:12], line.state, when, line.calling_ae_title, line.rule)
        table.add_row(*map(as_text, (*cells, line.attempts, line.error)))
    Console().print(table)


def overall(
    job: Job, deliveries: Sequence[Delivery], promising: AbstractSet[str] | None = None
) -> str:
    """The state as shown: PRODUCED until all is DELIVERED, COMMITTED once all that is promised is.

    `promising` are the destinations that are asked whether they have stored what they took; all of
    them where it is None.
    """
    if job.state is not JobState.PRODUCED or not deliveries:
        return job.state
    if not {delivery.state for delivery in deliveries} <= ARRIVED:
        return job.state
    promised = {d.state for d in deliveries if promising is None or d.destination in promising}
    return "COMMITTED" if promised == {DeliveryState.COMMITTED} else "DELIVERED"


def _job_lines(store: JobStore, limit: int, promising: AbstractSet[str]) -> list[FilmLine]:
    return [_job_line(job, store.deliveries(job.key), promising) for job in store.jobs(limit)]


def _job_line(job: Job, deliveries: Sequence[Delivery], promising: AbstractSet[str]) -> FilmLine:
    waiting = [d.reason for d in deliveries if d.state not in ARRIVED and d.reason]
    return FilmLine(
        key=job.key,
        state=overall(job, deliveries, promising),
        source_sop_instance_uid=job.sop_instance_uid,
        calling_ae_title=job.calling_ae_title,
        rule=job.rule,
        attempts=job.attempts,
        error=job.error or "; ".join(sorted(set(waiting))),
        received_at=job.created_at,
        updated_at=job.updated_at,
        deliveries=tuple(_delivery(delivery) for delivery in deliveries),
    )


def _delivery(delivery: Delivery) -> dict[str, object]:
    return {
        "sop_instance_uid": delivery.sop_instance_uid,
        "destination": delivery.destination,
        "state": str(delivery.state),
        "attempts": delivery.attempts,
        "status": delivery.status,
        "next_attempt_at": delivery.next_attempt_at.isoformat(),
        "reason": delivery.reason,
    }


def _decision_lines(store: JobStore, limit: int) -> list[FilmLine]:
    undecided = [film for film in store.received(limit) if not film.job_key]
    return [_decision_line(store, film) for film in undecided]


def _decision_line(store: JobStore, film: Received) -> FilmLine:
    owed = is_owed(film, partial(store.received, EVERY, film.sop_instance_uid))
    rejected = JobState.FAILED if owed else JobState.REJECTED
    return FilmLine(
        key="",
        state=rejected if film.decision else JobState.RECEIVED,
        source_sop_instance_uid=film.sop_instance_uid,
        calling_ae_title=film.calling_ae_title,
        rule="",
        attempts=0,
        error=film.decision,
        received_at=film.received_at,
        updated_at=film.received_at,
        deliveries=(),
    )
