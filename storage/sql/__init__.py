"""The job store in SQLite or PostgreSQL. The contract is that of storage.store.

Each subject has a room: the methods that the store has of it, and the steps they are made of, which
take a connection and so are parts of whoever's transaction it is.
"""

from storage.sql.commitment import Commitment
from storage.sql.destinations import Destinations
from storage.sql.films import Films
from storage.sql.notices import Notices
from storage.sql.production import Production
from storage.sql.retention import Retention
from storage.sql.retries import Retries
from storage.sql.sending import Sending

__all__ = ["SqlJobStore"]


class SqlJobStore(
    Films, Production, Retries, Sending, Commitment, Destinations, Retention, Notices
):
    """All of them, on one database."""
