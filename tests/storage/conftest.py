"""Every store that keeps the contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import migrate
from storage.memory import MemoryJobStore
from storage.sql import SqlJobStore
from storage.store import JobStore

SQL = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=SQL)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["memory", *SQL])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryJobStore()
        return
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/jobs.db" if is_file else request.getfixturevalue("postgres_url")
    migrate.up(url)
    opened = SqlJobStore(url)
    yield opened
    opened.close()
