"""A disk that is really full, of films or of rows: nothing is half there, and it heals."""

import itertools
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from dicom_node.config import Limits
from dicom_node.intake.pressure import Pressure
from pipeline import testing
from storage import migrate
from storage.objects import LocalObjectStore
from storage.sql import SqlJobStore
from tests.faults import hospital
from tests.faults.hospital import Hospital, says
from tests.intake.conftest import Receiver, Start, start  # noqa: F401 - a fixture
from tests.intake.films import encoded, film
from tests.intake.sender import Told, association, store
from tests.peers import tools

pytestmark = [pytest.mark.peer, pytest.mark.timeout(900)]  # what it needs must be had, as a peer

SUCCESS = Told(status=0x0000, comment="")
_LONG_S = 300
_WANT_SPACE = ("job released", "job store unavailable")
"""Said by a worker: for a result, or for a row."""


@contextmanager
def mounted(folder: Path, size_mb: int) -> Iterator[Path]:
    """A file system of this size, where this user may mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", size_mb=8) as disk:
        yield disk


@pytest.fixture
def rows(small_disk: Path) -> Iterator[SqlJobStore]:
    """A SQLite file on that disk."""
    url = f"sqlite:///{small_disk}/jobs.db"
    migrate.up(url)
    opened = SqlJobStore(url)
    yield opened
    opened.close()


def send(receiver: Receiver, name: str) -> Told | None:
    with association(receiver.port) as assoc:
        return store(assoc, encoded(film(name, rows=20_000)), sop_instance_uid=name)  # 640 KB


@contextmanager
def worker_stopped(place: Hospital) -> Iterator[None]:
    """Films are taken and routed meanwhile, and wait to be explained."""
    children = hospital.children_of(place.node)
    explains = [pid for pid in children if "libtorch" in Path(f"/proc/{pid}/maps").read_text()]
    assert 0 < len(explains) < len(children), "the worker has torch, the dispatcher has not"

    def stopped_between_its_looks() -> bool:
        tell(explains, signal.SIGSTOP)
        if can_be_written(place.node.folder / "var" / "vald.db"):
            return True
        tell(explains, signal.SIGCONT)
        return False

    tools.wait_until(stopped_between_its_looks, _LONG_S, "the worker to hold no row")
    yield
    tell(explains, signal.SIGCONT)


def tell(processes: list[int], what: signal.Signals) -> None:
    for pid in processes:
        os.kill(pid, what)


def can_be_written(database: Path) -> bool:
    """Nobody is in the middle of it, but for a moment."""
    with closing(sqlite3.connect(database, timeout=5, isolation_level=None)) as rows:
        try:
            rows.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # it is locked
            return False
    return True


def fill(disk: Path) -> Path:
    """Take what is left, to the last byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


def test_films_are_told_to_come_again_until_there_is_space(
    start: Start,  # noqa: F811 - the fixture
    small_disk: Path,
) -> None:
    receiver = start(objects=LocalObjectStore(small_disk / "objects"))
    told = [send(receiver, f"1.2.{n}") for n in range(20)]
    stored = told.count(SUCCESS)
    assert 0 < stored < 20
    full = Told(status=0xA700, comment="no space left, try again later")
    assert told == [SUCCESS] * stored + [full] * (20 - stored)
    assert len(receiver.store.received(100)) == stored
    assert len(list(small_disk.rglob("*.dcm"))) == stored
    assert list(small_disk.rglob("*.part")) == []
    for old in list(small_disk.rglob("*.dcm"))[:2]:
        old.unlink()
    assert send(receiver, "1.2.19") == SUCCESS


def test_a_database_without_space_has_films_come_again_until_there_is(
    start: Start,  # noqa: F811 - the fixture
    small_disk: Path,
    rows: SqlJobStore,
    tmp_path: Path,
) -> None:
    receiver = start(store=rows, objects=LocalObjectStore(tmp_path / "objects"))
    assert send(receiver, "1.2.0") == SUCCESS
    filler = fill(small_disk)
    told = [send(receiver, f"1.2.{n}") for n in range(1, 9)]
    assert Told(status=0xA700, comment="storage is not available, try again later") in told
    filler.unlink()
    assert [send(receiver, f"1.2.{n}") for n in range(1, 9)] == [SUCCESS] * 8
    assert len(rows.received(100)) == 9


def test_films_are_kept_out_before_the_database_s_own_disk_is_full(
    start: Start,  # noqa: F811 - the fixture
    small_disk: Path,
    rows: SqlJobStore,
    tmp_path: Path,
) -> None:
    objects = LocalObjectStore(tmp_path / "objects")
    clock = itertools.count()  # each look is a second after the one before
    limits = Limits(soft_free_mb=4, hard_free_mb=4)
    pressure = Pressure(
        store=rows, objects=objects, limits=limits, clock_s=lambda: float(next(clock))
    )
    receiver = start(store=rows, objects=objects, pressure=pressure)
    assert send(receiver, "1.2.0") == SUCCESS
    with association(receiver.port) as assoc:
        filler = fill(small_disk)
        told = store(assoc, encoded(film("1.2.1")), sop_instance_uid="1.2.1")
        comment = "the node is full: 0 MB of disk left for the database"
        assert told == Told(status=0xA700, comment=comment)
        filler.unlink()
        assert store(assoc, encoded(film("1.2.1")), sop_instance_uid="1.2.1") == SUCCESS
    assert len(rows.received(100)) == 2


def test_a_node_whose_films_rows_and_results_find_no_space_goes_on_when_there_is(
    tmp_path: Path,
) -> None:
    testing.write_tiny_model(tmp_path / "model")
    no_marks = {"limits": {"soft_free_mb": 0, "hard_free_mb": 0}}
    with (
        mounted(tmp_path / "node" / "var", size_mb=400) as disk,
        hospital.opened(tmp_path, tmp_path / "model", "", workers=1, edge=no_marks) as place,
    ):
        place.node.start()
        tools.wait_until(partial(says, place, "worker ready"), _LONG_S, "the worker")
        with worker_stopped(place):
            place.send(place.expose(hospital.SENDERS))
            assert all(place.told.values())
            routed = partial(says, place, '"event": "routed"', hospital.SENDERS)
            tools.wait_until(routed, _LONG_S, "all to be routed")
            filler = fill(disk)
            turned_away = place.expose(2)
            place.send(turned_away)
            assert not any(place.told[sent] for sent in turned_away)
        tools.wait_until(
            lambda: any(says(place, words) for words in _WANT_SPACE), _LONG_S, str(_WANT_SPACE)
        )
        filler.unlink()
        place.resend_what_failed()
        place.demand_nothing_lost_or_doubled()
        assert '"event": "process died"' not in place.node.log()
