"""The job store's contract in memory: for tests, and for whoever needs no durability.

Each subject has a room, named as in storage.sql.
"""

from storage.memory.commitment import Commitment
from storage.memory.destinations import Destinations
from storage.memory.films import Films
from storage.memory.notices import Notices
from storage.memory.retention import Retention
from storage.memory.retries import Retries
from storage.memory.sending import Sending

__all__ = ["MemoryJobStore"]


class MemoryJobStore(Films, Retries, Sending, Commitment, Destinations, Retention, Notices):
    """All of them, in one process."""
