"""What can go wrong in storage, and whose fault it is.

StorageError
├── StoreUnavailableError   the moment's: the database is locked, full or unreachable; try again
├── ObjectsUnavailableError the moment's: the objects' volume or service is away; try again
├── ObjectUnreadableError   the moment's: one object cannot be told now, others can; try again
├── OutOfSpaceError         the moment's: the disk is full; try again when space has returned
├── ObjectMissingError      the installation's: a kept object is gone or damaged
├── StoreMismatchError      the installation's: schema not this version's, or objects not its own
├── LeaseLostError          nobody's: another worker holds this job now; drop the work
├── UnknownKeyError         the caller's: no such job, delivery or received instance
└── TransitionError         the caller's: the state table has no such step
"""


class StorageError(Exception):
    """Base of every error raised by this package."""


class StoreUnavailableError(StorageError):
    """The database cannot answer now; the same call may succeed later."""


class ObjectsUnavailableError(StorageError):
    """The place where objects are kept cannot answer now; what it holds is not known to be lost."""


class ObjectUnreadableError(StorageError):
    """The place gives something else than this object, or refuses it, while it gives others."""


class OutOfSpaceError(StorageError):
    """No space is left where objects are kept."""


class ObjectMissingError(StorageError):
    """An object that was kept is not there, or its bytes are not what was kept."""


class StoreMismatchError(StorageError):
    """The database is none this program works with, or its objects are another database's."""


class LeaseLostError(StorageError):
    """The lease ran out and the job was given to another; this worker's result is void."""


class UnknownKeyError(StorageError):
    """No row of that key."""


class TransitionError(StorageError):
    """A state change that the tables of storage.states do not hold."""
