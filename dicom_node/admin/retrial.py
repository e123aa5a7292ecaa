"""`vald-node retry`: what failed is tried again, and what is not kept any more made again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicom_node import wiring
from dicom_node.errors import NodeError
from dicom_node.work import source
from storage import words
from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    StorageError,
    StoreUnavailableError,
)
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
    """A line a job that is tried again; and one a job, or a film without one, that cannot be, why.

    `decided_again` counts films of which a fault of ours kept the node from making a job, or whose
    file is back.
    """

    retried: tuple[str, ...]
    left: tuple[str, ...]
    decided_again: int


def retry_failed(path: Path, environ: Mapping[str, str], now: datetime) -> Done:
    """All that has FAILED is tried again, oldest first; what cannot be stops nothing else.

    Raises:
        StorageError: database or objects are away from the first.
    """
    settings = wiring.read_config(path, environ)
    store = wiring.open_kept_store(settings)
    try:
        return _Retrial(store, wiring.open_objects(settings, store), now).done()
    finally:
        store.close()


class _Retrial:
    """What is tried again, and what has been by now, whatever comes between."""

    def __init__(self, store: JobStore, objects: ObjectStore, now: datetime) -> None:
        self._store, self._objects, self._now = store, objects, now
        self._retried: list[str] = []
        self._left: list[str] = []
        self._decided_again = 0

    def done(self) -> Done:
        """All of it; a database that is away leaves the rest, of which each would wait for it."""
        try:
            self._retry_jobs()
            self._decide_again()
        except StoreUnavailableError as fault:
            self._left.append(f"the rest is left: {fault}")
        return Done(
            retried=tuple(self._retried),
            left=tuple(self._left),
            decided_again=self._decided_again,
        )

    def _retry_jobs(self) -> None:
        for job in reversed(self._store.jobs(EVERY, JobState.FAILED)):
            try:
                self._retried.append(_retry(self._store, self._objects, job, self._now))
            except StoreUnavailableError:
                raise
            except (NodeError, StorageError) as fault:
                self._left.append(f"{job.key[:12]} is left: {fault}")

    def _decide_again(self) -> None:
        """Files are looked for before the database is held, however slow whoever keeps them is."""
        owed = set(self._store.owed())
        lost = _lost_films(self._objects, owed)
        there = {film.number for film in owed} - lost.keys()
        self._decided_again = self._store.decide_again(self._now, there)
        for film in self._store.owed():
            if film in owed:  # one that has come again since came at another time
                whose = words.legible(f"film {film.sop_instance_uid} of {film.calling_ae_title}")
                self._left.append(f"{whose} is left: {lost.get(film.number, _OVERTAKEN)}")


_OVERTAKEN = "other bytes of its SOP Instance UID came later; have the film sent again"
_FILE_GONE = "its kept file is gone; have the film sent again"


def _lost_films(objects: ObjectStore, films: Iterable[Received]) -> dict[int, str]:
    """Why those cannot be decided about yet whose file was gone, by their numbers.

    One whose file is gone still would get the same decision, as if it had come just now. Objects
    that are away are asked once: they may be silent for half a minute.
    """
    lost: dict[int, str] = {}
    gone = [film for film in films if film.decision.startswith(words.GONE)]
    for index, film in enumerate(gone):
        try:
            objects.demand(film.object)
        except ObjectMissingError:
            lost[film.number] = _FILE_GONE
        except ObjectsUnavailableError as fault:
            return lost | {one.number: _later(fault) for one in gone[index:]}
        except StorageError as fault:
            lost[film.number] = _later(fault)
    return lost


def _later(fault: StorageError) -> str:
    return f"{fault}; retry once that is mended"


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
