"""SQLite held by another process for longer than anybody waits: films wait, nothing is doubled."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import testing
from tests.faults import hospital
from tests.faults.hospital import Hospital
from tests.intake.films import encoded, film
from tests.intake.sender import Told, association, store
from tests.peers import tools

pytestmark = [pytest.mark.peer, pytest.mark.timeout(1800)]

_HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(database: Path) -> Iterator[None]:
    """A backup program, say, has the database for itself."""
    command = [sys.executable, "-c", _HOLD, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.communicate()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Hospital]:
    """A hospital whose node runs."""
    model = tmp_path / "model"
    testing.write_tiny_model(model)
    with hospital.opened(tmp_path, model, "", workers=1) as opened:
        opened.node.start()
        yield opened


def test_films_wait_for_a_database_that_another_process_holds(place: Hospital) -> None:
    place.send(place.expose(8))
    assert all(place.told.values())
    tools.wait_until(lambda: "worker ready" in place.node.log(), 600, "all of it to run")
    with held(place.node.folder / "var" / "vald.db"):
        with association(place.node.port, within_s=120) as assoc:
            told = store(assoc, encoded(film("1.2.826")), sop_instance_uid="1.2.826")
        said = "storage is not available, try again later"
        assert told == Told(status=0xA700, comment=said)
        away = place.expose(2)
        place.send(away)
        assert not any(place.told[uid] for uid in away)
        tools.wait_until(lambda: "tick failed" in place.node.log(), 300, "the dispatcher to see it")
    place.resend_what_failed()
    place.demand_nothing_lost_or_doubled()
    assert '"event": "process died"' not in place.node.log()


def test_a_dispatcher_that_starts_meanwhile_waits_too(place: Hospital) -> None:
    place.send(place.expose(1))
    tools.wait_until(lambda: '"routed"' in place.node.log(), 600, "the dispatcher to run")
    with held(place.node.folder / "var" / "vald.db"):
        for child in hospital.children_of(place.node):
            hospital.end(child)
        tools.wait_until(
            lambda: "storage unavailable" in place.node.log(), 600, "the next one to wait"
        )
    place.demand_nothing_lost_or_doubled()
    assert place.node.log().count('"role": "dispatcher"') == 1  # the one that was killed
