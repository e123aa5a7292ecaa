"""Brings a database's schema to this program's version, and back; serialised between processes."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from storage import engine
from storage.errors import StoreMismatchError

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = zlib.crc32(b"vald-node schema")  # one number for the advisory lock of every process


def up(url: str) -> None:
    """The schema is this version's. Several processes may call it at once.

    Raises:
        StoreMismatchError: the schema is newer than this program.
        StoreUnavailableError: the database does not answer.
    """
    _run(url, lambda settings: command.upgrade(settings, "head"))


def down(url: str, revision: str) -> None:
    """The schema is that of an older `revision` ("base": no tables; what they held is lost).

    Raises:
        StoreMismatchError: no such revision, or the schema is newer than this program.
        StoreUnavailableError: the database does not answer.
    """
    _run(url, lambda settings: command.downgrade(settings, revision))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The database's revision, empty where it has none, and this program's, the last of `known`."""

    found: str
    known: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether this program can work with the database."""
        return self.found == self.known[-1]


def status(url: str) -> Schema:
    """Which schema the database has; nothing is changed, and nothing made.

    Raises:
        StoreMismatchError: the URL names no database this program works with.
        StoreUnavailableError: the database does not answer.
    """
    newest_first = [script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()]
    found = "" if engine.is_new(url) else _revision(url)
    return Schema(found=found, known=tuple(reversed(newest_first)))


def _revision(url: str) -> str:
    database = engine.connect(url)
    try:
        with engine.reading(database) as connection:
            return MigrationContext.configure(connection).get_current_revision() or ""
    finally:
        database.dispose()


def demand_head(database: Engine) -> None:
    """Return if the schema is this version's.

    Raises:
        StoreMismatchError: it is not.
    """
    with engine.reading(database) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    expected = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    if expected is None:  # else an empty database would seem to be at the head
        raise StoreMismatchError("this installation has no migrations; install it whole")
    if found != expected:
        raise StoreMismatchError(
            f"the database has schema {found or 'none'}, this program needs {expected}; "
            "start the node once with this version, which brings the schema up"
        )


def _run(url: str, step: Callable[[Config], None]) -> None:
    database = engine.connect(url, patient=True)
    try:
        with engine.writing(database) as connection, _alone(connection):
            _refuse_newer(connection)
            settings = Config()
            settings.set_main_option("script_location", str(_SCRIPTS))
            settings.attributes["connection"] = connection
            _take(step, settings)
    finally:
        database.dispose()


def _take(step: Callable[[Config], None], settings: Config) -> None:
    try:
        step(settings)
    except CommandError as fault:
        raise StoreMismatchError(f"migrations: {fault}") from fault


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """No other process changes the schema meanwhile; SQLite's BEGIN IMMEDIATE sees to it itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    yield


def _refuse_newer(connection: Connection) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}
    if found is not None and found not in known:
        raise StoreMismatchError(
            f"the database has schema {found}, which this version does not know; "
            "it was made by a newer one"
        )
