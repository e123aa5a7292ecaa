"""Every store that keeps the contract."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from storage import migrate
from storage.memory import MemoryJobStore
from storage.sql import SqlJobStore
from storage.store import JobStore
from tests.storage.bucket import S3Server, running

SQL = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
_EMPTY = text(
    "TRUNCATE received, jobs, results, deliveries, transactions, destinations, notices "
    "RESTART IDENTITY CASCADE"
)


@pytest.fixture(params=SQL)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=SQL)
def ready_url(request: pytest.FixtureRequest) -> str:
    """A database with empty tables, of each kind."""
    return str(request.getfixturevalue(f"{request.param}_ready"))


@pytest.fixture(params=["memory", *SQL])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryJobStore()
        return
    opened = SqlJobStore(request.getfixturevalue(f"{request.param}_ready"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "jobs.db"
    migrate.up(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_ready(sqlite_template: Path, tmp_path: Path) -> str:
    """A SQLite file with empty tables; copied, since migrating takes longer than most tests."""
    shutil.copy(sqlite_template, tmp_path / "jobs.db")
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture(scope="session")
def postgres_migrated(postgres_server: str) -> str:
    server = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE vald_contract"))
    server.dispose()
    url = make_url(postgres_server).set(database="vald_contract")
    migrate.up(url.render_as_string(hide_password=False))
    return url.render_as_string(hide_password=False)


@pytest.fixture
def postgres_ready(postgres_migrated: str) -> str:
    """A PostgreSQL database with empty tables; emptied, since making one takes a while."""
    database = create_engine(postgres_migrated)
    with database.begin() as connection:
        connection.execute(_EMPTY)
    database.dispose()
    return postgres_migrated


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can, so that what needs a lock shows it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with running() as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that speaks S3, which this process's clients find."""
    s3_server.make_known(monkeypatch)
    return s3_server
