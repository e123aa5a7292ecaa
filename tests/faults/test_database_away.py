"""PostgreSQL stopped or silent while films are in work, and back: nothing lost or doubled."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import testing
from tests import postgres
from tests.faults import hospital
from tests.peers import tools

pytestmark = [pytest.mark.peer, pytest.mark.postgres, pytest.mark.timeout(600)]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL of its own, which may be stopped."""
    started = postgres.started(tmp_path_factory.mktemp("postgres"))
    yield started
    started.cleanup()


_TOLD = ("storage unavailable", "job store unavailable", "tick failed")
"""By a process that starts, by a worker in mid-work, by the dispatcher."""


@contextmanager
def stopped(server: Any) -> Iterator[None]:
    """Immediately, as by a crash; started again on leaving."""
    _control(server, "stop", "-m", "immediate")
    try:
        yield
    finally:
        postgres.start_again(server)


def silent(server: Any) -> AbstractContextManager[None]:
    """As behind a network that drops packets: connections stand, and nothing is answered."""
    return postgres.silent(server.pgdata)


def _control(server: Any, *command: str) -> None:
    from pgserver._commands import POSTGRES_BIN_PATH

    program = [str(POSTGRES_BIN_PATH / "pg_ctl"), "-D", str(server.pgdata), "-w", *command]
    # PostgreSQL does not run as root; the wheel made a user for it.
    user: str | None = server.system_user
    subprocess.run(program, check=True, capture_output=True, timeout=60, user=user)


@pytest.mark.parametrize("is_away", [stopped, silent])
def test_films_wait_for_a_database_that_went_away_and_came_back(
    server: Any, tmp_path: Path, is_away: Callable[[Any], AbstractContextManager[None]]
) -> None:
    model = tmp_path / "model"
    testing.write_tiny_model(model)
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    with hospital.opened(tmp_path, model, url, workers=1) as place:
        place.node.start()
        place.send(place.expose(8))
        assert all(place.told.values())
        with is_away(server):
            away = place.expose(4)
            place.send(away)
            assert not any(place.told[uid] for uid in away)
            tools.wait_until(
                lambda: any(event in place.node.log() for event in _TOLD),
                120,
                "the node to see it",
            )
        place.resend_what_failed()
        place.demand_nothing_lost_or_doubled()
        assert '"event": "process died"' not in place.node.log()
