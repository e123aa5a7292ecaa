"""What all rooms of the store share: the database."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    RowMapping,
    Select,
    Table,
    func,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from storage import engine, migrate
from storage.errors import StorageError
from storage.schema import deliveries, received
from storage.states import DeliveryState
from storage.store import ENDLESS_BYTES

IS_ASKED = (deliveries.c.state == DeliveryState.DELIVERED, deliveries.c.promised)
"""A delivery that has arrived, and that its destination is yet to commit."""


def arrived_at(films: FromClause = received) -> ColumnElement[datetime]:
    """When a film came for the last time."""
    return func.coalesce(films.c.arrived_at, films.c.received_at)


class Database:
    """Rows by SQLAlchemy. The one difference between the databases is how they lock:
    rows and tables on PostgreSQL, which SQLite, where one writer is alone, leaves out.
    """

    def __init__(self, url: str) -> None:
        """Open the store.

        Raises:
            StoreMismatchError: the schema is not this version's; `storage.migrate.up` makes it so.
            StoreUnavailableError: the database does not answer.
        """
        self._engine = engine.connect(url)
        try:
            migrate.demand_head(self._engine)
        except StorageError:
            self._engine.dispose()
            raise

    def free_bytes(self) -> int:
        """See JobStore; SQLite's log of changes lies beside its file."""
        return engine.free_bytes(self._engine, ENDLESS_BYTES)

    def ahead_s(self, now: datetime) -> float:
        """See JobStore."""
        if self._engine.dialect.name == "sqlite":
            return 0.0
        began = time.monotonic()
        with engine.reading(self._engine) as db:
            connected = time.monotonic()  # which may have taken seconds
            there: datetime = db.execute(select(func.clock_timestamp())).scalar_one()
        return (now - there).total_seconds() + connected - began

    def close(self) -> None:
        """See JobStore."""
        self._engine.dispose()

    def _rows(self, query: Select[Any]) -> Sequence[RowMapping]:
        with engine.reading(self._engine) as db:
            return db.execute(query).mappings().all()


def insert_once(db: Connection, table: Table, values: dict[str, object], same: Select[Any]) -> None:
    """The row is there, by us or by another process that was first."""
    try:
        with db.begin_nested():
            db.execute(insert(table).values(**values))
    except IntegrityError:
        if db.execute(same).first() is None:
            raise
