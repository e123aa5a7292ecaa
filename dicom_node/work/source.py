"""The kept film of a job: the one that it was made for, or the same film received again."""

from collections.abc import Callable, Iterable

from dicom_node.routing.router import OTHER_PIXELS
from storage.jobs import Job, ObjectRef
from storage.objects import ObjectStore, is_whole
from storage.store import JobStore

_MOST = 100


def film_of(
    objects: ObjectStore, job: Job, others: Callable[[], Iterable[ObjectRef]]
) -> ObjectRef | None:
    """The first that is whole, the job's own or one of the others; None if it is to be sent again.

    Raises:
        StorageError: rows or objects are away, and nobody can tell.
    """
    if is_whole(objects, job.object):
        return job.object
    return next((ref for ref in others() if is_whole(objects, ref)), None)


def others(store: JobStore, job: Job) -> list[ObjectRef]:
    """What serves in its stead: a film that is sent again seldom has the bytes of the first.

    Archives write other headers, and choose other transfer syntaxes.
    """
    again = store.received(_MOST, job.sop_instance_uid)
    # One that has just come again may be found to have other pixels.
    same = (film for film in again if film.job_key == job.key and film.decision)
    return [film.object for film in same if not film.decision.startswith(OTHER_PIXELS)]
