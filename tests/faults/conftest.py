"""How much is tried: a little in CI, everything by `make faults` (VALD_FAULTS=long)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import testing
from tests.faults import hospital
from tests.faults.hospital import Hospital

LONG = os.environ.get("VALD_FAULTS") == "long"
collect_ignore = [] if os.environ.get("VALD_SOAK_MINUTES") else ["test_soak.py"]
_POSTGRES = pytest.mark.postgres
# Database and worker processes.
_KINDS = [
    pytest.param(("sqlite", 1), id="sqlite-1"),
    pytest.param(("sqlite", 3), id="sqlite-3"),
    pytest.param(("postgres", 1), id="postgres-1", marks=_POSTGRES),
    pytest.param(("postgres", 3), id="postgres-3", marks=_POSTGRES),
]


@pytest.fixture(params=_KINDS if LONG else _KINDS[:1])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hospital]:
    """A hospital of each kind; one kind where the run is short."""
    database, workers = request.param
    url = request.getfixturevalue("postgres_url") if database == "postgres" else ""
    model = tmp_path_factory.mktemp("tiny-model")
    testing.write_tiny_model(model)
    with hospital.opened(tmp_path, model, url, workers) as opened:
        yield opened
