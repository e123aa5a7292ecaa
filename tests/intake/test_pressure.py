"""Disk and queue limits: who is told to try again, and that it heals."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dicom_node.config import Limits
from dicom_node.intake.pressure import Level, Pressure
from storage.errors import StoreUnavailableError
from storage.memory import MemoryJobStore
from storage.objects import MemoryObjectStore
from tests.intake.conftest import Receiver, Start
from tests.intake.films import encoded, film
from tests.intake.sender import Told, association, rejection_of, store

VERIFICATION = "1.2.840.10008.1.1"
LIMITS = Limits(soft_free_mb=20, hard_free_mb=10, soft_queue=3, hard_queue=5)


class Disk(MemoryObjectStore):
    """A disk with as much space as is said."""

    free_mb: int = 100

    def free_bytes(self) -> int:
        return self.free_mb << 20


class Queue(MemoryJobStore):
    """A queue as long as is said."""

    films: int = 0
    away: bool = False
    free_mb: int = 100

    def waiting(self) -> int:
        if self.away:
            raise StoreUnavailableError("locked")
        return self.films

    def free_bytes(self) -> int:
        return self.free_mb << 20


@dataclass
class Bench:
    """A pressure whose clock is set by hand."""

    disk: Disk
    queue: Queue = field(default_factory=Queue)
    now_s: float = 0.0

    def pressure(self) -> Pressure:
        return Pressure(
            store=self.queue, objects=self.disk, limits=LIMITS, clock_s=lambda: self.now_s
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Disk(tmp_path))


@pytest.mark.parametrize(
    ("free_mb", "films", "level", "reason"),
    [
        (100, 0, Level.FREE, ""),
        (20, 2, Level.FREE, ""),
        (19, 0, Level.SOFT, "19 MB of disk left"),
        (100, 3, Level.SOFT, "3 films wait"),
        (10, 4, Level.SOFT, "10 MB of disk left"),
        (9, 0, Level.HARD, "9 MB of disk left"),
        (100, 5, Level.HARD, "5 films wait"),
        (19, 5, Level.HARD, "5 films wait"),
    ],
)
def test_the_first_limit_that_is_reached_decides(
    bench: Bench, free_mb: int, films: int, level: Level, reason: str
) -> None:
    bench.disk.free_mb, bench.queue.films = free_mb, films
    look = bench.pressure().look()
    assert (look.level, look.reason) == (level, reason)


def test_the_database_s_own_disk_counts_too(bench: Bench) -> None:
    bench.disk.free_mb, bench.queue.free_mb = 30, 19
    look = bench.pressure().look()
    assert (look.level, look.reason) == (Level.SOFT, "19 MB of disk left for the database")
    bench.queue.free_mb = 9
    assert bench.pressure().look().level is Level.HARD


def test_a_look_holds_for_a_second_and_no_longer(bench: Bench) -> None:
    pressure = bench.pressure()
    assert pressure.look().level is Level.FREE
    bench.disk.free_mb = 1
    bench.now_s = 0.9
    assert pressure.look().level is Level.FREE
    bench.now_s = 1.0
    assert pressure.look().level is Level.HARD
    bench.disk.free_mb = 100
    bench.now_s = 2.0
    assert pressure.look().level is Level.FREE


def test_a_store_that_is_away_is_for_the_film_itself_to_find(bench: Bench) -> None:
    bench.queue.away = True
    assert bench.pressure().look().level is Level.FREE


def test_a_store_that_hangs_holds_up_one_sender_only(bench: Bench) -> None:
    asked, answers = threading.Event(), threading.Event()

    class Hanging(Queue):
        def waiting(self) -> int:
            asked.set()
            assert answers.wait(60)
            return 5

    bench.queue = Hanging()
    pressure = bench.pressure()
    first = threading.Thread(target=pressure.look)
    first.start()
    assert asked.wait(60)
    second = ThreadPoolExecutor(1).submit(pressure.look)
    try:
        assert second.result(30).level is Level.FREE  # the last that is known
    finally:
        answers.set()
        first.join()
    assert pressure.look().level is Level.HARD


def test_a_full_disk_is_told_also_where_the_database_is_away(bench: Bench) -> None:
    bench.queue.away, bench.disk.free_mb = True, 9
    look = bench.pressure().look()
    assert (look.level, look.reason) == (Level.HARD, "9 MB of disk left")


def full(start: Start, bench: Bench) -> Receiver:
    return start(store=bench.queue, objects=bench.disk, pressure=bench.pressure())


def test_above_the_soft_mark_senders_are_told_to_try_again_and_others_are_let_in(
    start: Start, bench: Bench
) -> None:
    bench.disk.free_mb = 15
    receiver = full(start, bench)
    with association(receiver.port) as assoc:
        assert rejection_of(assoc) == (2, 3, 1)  # transient, presentation, congestion
    with association(receiver.port, sop_class_uid=VERIFICATION) as assoc:
        assert assoc.send_c_echo().Status == 0x0000
    bench.disk.free_mb, bench.now_s = 100, 10.0
    with association(receiver.port) as assoc:
        assert store(assoc, encoded(film())) == Told(status=0x0000, comment="")


def test_above_the_hard_mark_a_running_association_is_told_too(start: Start, bench: Bench) -> None:
    receiver = full(start, bench)
    with association(receiver.port) as assoc:
        bench.disk.free_mb, bench.now_s = 5, 10.0
        assert store(assoc, encoded(film())) == Told(
            status=0xA700, comment="the node is full: 5 MB of disk left"
        )
        assert receiver.store.received(10) == []
        bench.disk.free_mb, bench.now_s = 100, 20.0
        assert store(assoc, encoded(film())) == Told(status=0x0000, comment="")
