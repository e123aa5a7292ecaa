"""Connections to SQLite and PostgreSQL, set up so that a committed row survives a power cut."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)

from storage.errors import StorageError, StoreMismatchError, StoreUnavailableError

_BUSY_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 10
_ANSWER_S = 25.0
"""PostgreSQL is given up after it: a server that is stopped, not dead, keeps connections open."""
# On the server, so that it gives up before we do; the last frees the locks of a stopped node.
_SESSION = {
    "timezone": "UTC",
    # Both whatever the server's default is: a committed row is a promise, and whoever has waited
    # for a row sees what it is then. libpq: a blank in a value is escaped.
    "synchronous_commit": "on",
    "default_transaction_isolation": r"read\ committed",
    "lock_timeout": "10s",
    "statement_timeout": "20s",
    "idle_in_transaction_session_timeout": "60s",
}
# Of the network: a peer that is gone is known within about half a minute (tcp(7)).
_NETWORK = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25000,  # milliseconds
}
_PATIENT = {"lock_timeout": "0", "statement_timeout": "0"}
_R = TypeVar("_R")
# Types in /proc/mounts whose locks or shared memory other machines do not see.
_NETWORK_FILE_SYSTEMS = {
    *("9p", "afs", "beegfs", "ceph", "glusterfs", "lustre", "nfs", "nfs4"),
    *("cifs", "smb", "smb3", "smbfs"),
    *("fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
}
# The drivers that this program installs, by the names a URL may call them.
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_WRITE = "vald_write"


def connect(url: str, *, patient: bool = False) -> Engine:
    """An engine for `url`; no connection is made yet.

    Its calls end within a minute, whatever the server does; those of a `patient` one, which changes
    the schema, when they are done.

    Raises:
        StoreMismatchError: the URL names no database this program works with, or SQLite on a
            network file system, where its locks do not hold (sqlite.org/howtocorrupt, 2.1).
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    return _postgresql(parsed, patient=patient)


def probe(url: str) -> str:
    """What a first look at the database says, in words; nothing is made.

    Raises:
        StoreMismatchError: it cannot be used.
        StoreUnavailableError: it does not answer.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        folder = next(p for p in Path(parsed.database).resolve().parents if p.exists())
        _refuse_network(folder)
        if is_new(url):
            if not os.access(folder, os.W_OK):
                raise StoreMismatchError(f"storage.database: {folder} cannot be written to")
            return "sqlite file will be made at the first start"
    database = connect(url)
    try:
        with reading(database) as connection:
            return f"{connection.dialect.name} answers"
    finally:
        database.dispose()


def is_new(url: str) -> bool:
    """Whether the database is a SQLite file that is not there yet; to open it would make it."""
    parsed = _parse(url)
    named = parsed.get_backend_name() == "sqlite" and parsed.database
    return bool(named) and not Path(str(named)).exists()


def free_bytes(engine: Engine, elsewhere: int) -> int:
    """How much is free on the disk of a SQLite file; `elsewhere` of any other database.

    Raises:
        StoreUnavailableError: its folder is gone.
    """
    if engine.dialect.name != "sqlite":
        return elsewhere
    try:
        return shutil.disk_usage(Path(str(engine.url.database)).resolve().parent).free
    except OSError as fault:
        raise StoreUnavailableError(f"database: {fault.strerror}") from fault


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads."""
    with _translated(), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes, committed on leaving, undone on an error."""
    with _translated(), engine.connect() as connection:
        connection = connection.execution_options(**{_WRITE: True})
        with connection.begin():
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    """What the database says, as an error that says whose fault it is; no URL, no password.

    A value that no table can hold is the caller's ValueError: trying again would not help.
    """
    try:
        yield
    except StorageError:
        raise
    except (DataError, IntegrityError) as fault:
        raise ValueError(f"database: {_first_line(fault.orig)}") from fault
    except DBAPIError as fault:
        raise StoreUnavailableError(f"database: {_first_line(fault.orig)}") from fault
    except StatementError as fault:  # a column's type refused the value before it was sent
        raise ValueError(f"database: {_first_line(fault.orig)}") from fault
    except SQLAlchemyError as fault:
        raise StoreUnavailableError(f"database: {type(fault).__name__}") from fault


def _first_line(fault: BaseException | None) -> str:
    lines = str(fault).strip().splitlines()
    return lines[0] if lines else type(fault).__name__


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as fault:
        raise StoreMismatchError("storage.database is no database URL") from fault
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise StoreMismatchError(
            f"storage.database: {parsed.drivername} is not supported; "
            "use sqlite:///… or postgresql+psycopg://…"
        )
    return parsed.set(drivername=driver)


def _postgresql(url: URL, *, patient: bool) -> Engine:
    session = {**_SESSION, **(_PATIENT if patient else {})}
    engine = create_engine(
        url,
        pool_pre_ping=True,
        hide_parameters=True,  # a row's values would reach the log by way of the traceback
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
            **_NETWORK,
        },
    )
    if not patient:
        event.listen(engine, "do_connect", _connect_bounded)
    return engine


def _connect_bounded(
    _dialect: object, _record: object, words: list[Any], values: dict[str, Any]
) -> psycopg.Connection[Any]:
    return _Bounded.connect(*words, **values)


class _Bounded(psycopg.Connection[Any]):
    """A connection that gives up a server which does not answer.

    None of the time-outs above helps where the server's processes are stopped: its kernel goes on
    acknowledging what is sent.
    """

    def wait(self, gen: PQGen[_R], *args: Any, **kwargs: Any) -> _R:
        """What the generator returns, within the limit.

        Raises:
            psycopg.OperationalError: no answer by then; the connection is closed.
        """
        try:
            return super().wait(_within(gen, _ANSWER_S), *args, **kwargs)
        except _SilenceError:
            self.pgconn.finish()
            raise


class _SilenceError(psycopg.OperationalError):
    """The server did not answer in time."""


def _within(gen: PQGen[_R], seconds: float) -> PQGen[_R]:
    """The generator, which is told now and then that nothing is ready, and ended in time."""
    until = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > until:
                raise _SilenceError(f"no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # as typed above


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise StoreMismatchError(
            "storage.database: SQLite needs a file; several processes share it"
        )
    _make_local_folder(Path(url.database).resolve().parent)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    _watch_file(engine, Path(url.database))
    return engine


def _watch_file(engine: Engine, path: Path) -> None:
    """Connections are refused once their file is not the one at `path` any more.

    Whoever deletes or replaces the file leaves us one without a name: rows would be committed to
    it, films acknowledged, and all be gone with the process. Nor is a new, empty file made.
    """
    known: list[tuple[int, int]] = []

    def remember(*_: object) -> None:
        found = _identity(path)
        if not known and found is not None:
            known.append(found)

    def compare(*_: object) -> None:
        if known and _identity(path) != known[0]:
            raise StoreUnavailableError(
                "database: its file was deleted or replaced; put it back, or stop the node first"
            )

    event.listen(engine, "connect", remember)
    event.listen(engine, "do_connect", compare)
    event.listen(engine, "checkout", compare)


def _identity(path: Path) -> tuple[int, int] | None:
    """The file itself, whatever its name: device and inode; an open one's are not given again."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_local_folder(folder: Path) -> None:
    _refuse_network(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise StoreMismatchError(f"storage.database: {folder}: {fault.strerror}") from fault


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transaction handling would begin too late, after the first read.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    cursor.execute("PRAGMA synchronous=FULL")  # WAL with NORMAL may lose commits in a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A write that begins as a read cannot wait for another writer: it fails at once.
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _refuse_network(folder: Path) -> None:
    kind = _file_system(folder)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreMismatchError(
            f"storage.database: {folder} is on {kind}; SQLite needs a local disk, or use PostgreSQL"
        )


def _file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that holds `folder`; empty where the system does not tell."""
    if not mounts.exists():
        return ""
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8").splitlines():
        point, found = line.split()[1:3]
        point = _unescaped(point)
        inside = os.path.commonpath([point, folder]) == point if point.startswith("/") else False
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def _unescaped(point: str) -> str:
    """A blank in a mount point is written as an octal escape, fstab(5)."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
