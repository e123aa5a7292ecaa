"""Where the real things are: films, peers. Where CI must have them, a skip is a failure."""

import logging
import os
import sys
import threading
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
from sqlalchemy.engine import make_url

import pipeline  # noqa: F401 - before torch, which a test may load first
from tests import postgres

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

_REAL = ("peer", "postgres", "data")
_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


@pytest.fixture
def own_log() -> Iterator[None]:
    """The test may configure the log: it is as it was afterwards."""
    root, hook, stream = logging.getLogger(), threading.excepthook, sys.stderr
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    sys.stderr = stream
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real films beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real films at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def dicom_films(shared_data: Path) -> Path:
    """The folder of real DICOM objects."""
    return shared_data / "dicom"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a real-part test into a failure where VALD_TESTS_MUST_RUN is set."""
    report = yield
    return _held_to(report) if any(map(item.get_closest_marker, _REAL)) else report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module, whose marks nobody has seen, into one too."""
    return _held_to((yield))


def _held_to(report: _Report) -> _Report:
    if os.environ.get("VALD_TESTS_MUST_RUN") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped where it must run: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real PostgreSQL server, started for this session from the wheel."""
    server = postgres.started(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of a new, empty database."""
    from sqlalchemy import create_engine, text

    name = f"vald_{uuid.uuid4().hex}"
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return str(make_url(postgres_server).set(database=name).render_as_string(hide_password=False))
