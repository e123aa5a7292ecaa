"""Whose a store is: one that another database knows is never taken, and never swept.

Whatever no row knows is removed in time, and the rows are those of one database.
"""

from storage.errors import StoreMismatchError
from storage.objects.port import ObjectStore
from storage.objects.whole import MARK, lost

_ANOTHERS = (
    "storage.objects is another database's, whose films and results we would remove, since no row "
    "of ours knows them: set storage.objects to a place of this database's own, or "
    f"storage.database back. A place that no node needs any more is ours once it is empty, {MARK} "
    "too"
)


def demand_ours(objects: ObjectStore) -> None:
    """Return if the store is the one of its mark.

    Raises:
        StoreMismatchError: it has another's.
        ObjectsUnavailableError: it has none, or is away.
    """
    found = objects.found()
    if found == objects.mark:
        return
    if found:
        raise StoreMismatchError(_ANOTHERS)
    raise lost("objects", objects.mark)


def demand_free(objects: ObjectStore, *, is_new: bool) -> None:
    """Return if a database that knows no store yet may take this one, opened by the mark it has.

    One that is not new, and has films, is of a version that marked none, or knew no mark of its
    own: where they are is its place.

    Raises:
        StoreMismatchError: another database has marked it, or films or results are there.
        ObjectsUnavailableError: it is away.
    """
    found = objects.found()
    is_free = found == objects.mark or not (found or objects.is_used())
    if is_new and not is_free:
        raise StoreMismatchError(_ANOTHERS)


def take(objects: ObjectStore, *, is_new: bool) -> None:
    """The store has a mark: that of this database, or where it is not new that which it had.

    Raises:
        StoreMismatchError: see `demand_free`.
        StorageError: the mark cannot be made.
    """
    own = objects.mark
    demand_free(objects, is_new=is_new)
    objects.mark_as(own)
    if is_new and objects.mark != own:  # another was first
        raise StoreMismatchError(_ANOTHERS)
