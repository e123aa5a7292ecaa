"""Whose a store is: one that another database knows is never taken, and never swept.

Whatever no row knows is removed in time, and the rows are those of one database.
"""

from storage.errors import StoreMismatchError
from storage.objects.port import ObjectStore
from storage.objects.whole import MARK, lost


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
        raise _anothers(objects.mark)
    raise lost("objects", objects.mark)


def demand_free(objects: ObjectStore, *, is_new: bool) -> None:
    """Return if a database that knows no store yet may take this one, opened by the mark it has.

    One that is not new, and has films, is of a version that marked none: where they are is its
    place, unless another has marked it.

    Raises:
        StoreMismatchError: another database has marked it, or films or results are there.
        ObjectsUnavailableError: it is away.
    """
    found = objects.found()
    if found == objects.mark:
        return
    if found or (is_new and objects.is_used()):
        raise _anothers(objects.mark)


def take(objects: ObjectStore, *, is_new: bool) -> None:
    """The store has the mark of this database.

    Raises:
        StoreMismatchError: see `demand_free`.
        StorageError: the mark cannot be made.
    """
    own = objects.mark
    demand_free(objects, is_new=is_new)
    objects.mark_as(own)
    _demand_first(objects, own)


def take_over(objects: ObjectStore, own: str) -> None:
    """The store has this mark of its database, in place of one that other databases may know too.

    Earlier versions noted the mark of whatever folder they met. The first that has it changed is
    whose place it is; the others meet a mark that they do not know.

    Raises:
        StoreMismatchError: another was first.
        ObjectsUnavailableError: it is away.
        StorageError: the mark cannot be made.
    """
    if objects.found() != own:  # which is so where a start was cut off before it was noted
        demand_ours(objects)
    objects.mark_anew(own)
    _demand_first(objects, own)


def _demand_first(objects: ObjectStore, own: str) -> None:
    if objects.mark != own:
        raise _anothers(own)


def _anothers(own: str) -> StoreMismatchError:
    return StoreMismatchError(
        "storage.objects is another database's, whose films and results we would remove, since no "
        "row of ours knows them: set storage.objects to a place of this database's own, or "
        f"storage.database back. A place is this database's where its {MARK} says {own}: write "
        "that into a new, empty one where the database has had another before, or into this one "
        "where no other database has films or results in it"
    )
