"""`vald-node retry`: what failed is tried again, and what is not kept any more made again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicom_node import wiring
from dicom_node.errors import NodeError
from dicom_node.work import source
from storage import words
from storage.errors import ObjectMissingError, TransitionError
from storage.jobs import EVERY, REJECTION_NOTE, Job, Received, Result
from storage.objects import ObjectStore, is_whole
from storage.states import ARRIVED, JobState
from storage.store import JobStore


def retry(path: Path, environ: Mapping[str, str], key: str, now: datetime) -> str:
    """What was done, in a line.

    Raises:
        NodeError: a result that has yet to arrive is gone, and cannot be made again now.
        StorageError: no such job, or nothing of it failed; database or objects are away.
    """
    settings = wiring.read_config(path, environ)
    store = wiring.open_kept_store(settings)
    try:
        objects = wiring.open_objects(settings, store)
        return _retry(store, objects, store.job(key), now)
    finally:
        store.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A line a job: of those that are tried again, and of those that cannot be, with the reason.

    `decided_again` are films of which a fault of ours kept the node from making a job.
    """

    retried: tuple[str, ...]
    left: tuple[str, ...]
    decided_again: int


def retry_failed(path: Path, environ: Mapping[str, str], now: datetime) -> Done:
    """All that has FAILED is tried again, oldest first; what cannot be stops nothing else.

    Raises:
        StorageError: database or objects are away.
    """
    settings = wiring.read_config(path, environ)
    store = wiring.open_kept_store(settings)
    retried: list[str] = []
    left: list[str] = []
    try:
        objects = wiring.open_objects(settings, store)
        for job in reversed(store.jobs(EVERY, JobState.FAILED)):
            try:
                retried.append(_retry(store, objects, job, now))
            except (NodeError, TransitionError) as fault:
                left.append(f"{job.key[:12]} is left: {fault}")
        again = _decide_again(store, objects, now)
    finally:
        store.close()
    return Done(retried=tuple(retried), left=tuple(left), decided_again=again)


def _decide_again(store: JobStore, objects: ObjectStore, now: datetime) -> int:
    """Files are looked for before the database is held, however slow whoever keeps them is."""
    films = {film.number for film in store.owed() if _can_be_decided(objects, film)}
    return store.decide_again(now, films)


def _can_be_decided(objects: ObjectStore, film: Received) -> bool:
    """One whose file is gone still would get the same decision, as if it had come just now."""
    try:
        objects.demand(film.object)
    except ObjectMissingError:
        return not film.decision.startswith(words.GONE)
    return True


def _retry(store: JobStore, objects: ObjectStore, job: Job, now: datetime) -> str:
    gone = lost(store, objects, job)
    if gone:
        _demand_remakable(store, objects, job, gone)
    done = store.retry(job.key, now, [made.sop_instance_uid for made in gone])
    again = f"; {len(gone)} of its results are made again" if gone else ""
    return f"{done.key[:12]} is {done.state}{again}"


def lost(store: JobStore, objects: ObjectStore, job: Job) -> list[Result]:
    """Results that have yet to arrive somewhere, and whose kept files are gone or damaged.

    Of a recalled job that is its note alone: nothing else of it is sent.
    """
    waiting = {d.sop_instance_uid for d in store.deliveries(job.key) if d.state not in ARRIVED}
    results = store.results(job.key)
    notes = [made for made in results if made.kind == REJECTION_NOTE]
    return [
        made
        for made in notes or results
        if made.sop_instance_uid in waiting and not is_whole(objects, made.object)
    ]


def _demand_remakable(
    store: JobStore, objects: ObjectStore, job: Job, gone: Sequence[Result]
) -> None:
    """Return if the results can be made again of what is kept.

    Raises:
        NodeError: they cannot, and what to do.
    """
    short = job.key[:12]
    if any(made.kind == REJECTION_NOTE for made in gone):
        raise NodeError(
            f"the rejection note of {short} is not kept any more; "
            f"`vald-node retract --model {job.model_digest[:12]}` makes it again"
        )
    if source.film_of(objects, job, lambda: source.others(store, job)) is None:
        raise NodeError(
            f"{len(gone)} results of {short} are not kept any more, nor is their film: "
            "have the film sent again, then retry"
        )
