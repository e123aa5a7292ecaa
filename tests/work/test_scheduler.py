"""A tick that fails must not stop the clock."""

import datetime
import sys
import threading
import time
from collections.abc import Callable

import pytest
import structlog.testing

from dicom_node.work import scheduler
from dicom_node.work.scheduler import Tick, Ticker
from storage.errors import LeaseLostError, StorageError, StoreUnavailableError

_EVERY_S = 0.01
_LONG_S = 10.0


def ticker(**runs: Callable[[], object]) -> Ticker:
    return Ticker(tuple(Tick(name=name, every_s=_EVERY_S, run=run) for name, run in runs.items()))


@pytest.mark.parametrize(
    "fault",
    [
        StoreUnavailableError("the database is locked"),
        StorageError("no such disk"),
        LeaseLostError("another has it"),
        ValueError("nobody foresaw this"),
    ],
)
def test_a_tick_comes_again_after_it_raised(fault: Exception) -> None:
    turns = iter([fault, fault, None])
    third = threading.Event()

    def run() -> None:
        if turn := next(turns, None):
            raise turn
        third.set()

    clock = ticker(route=run)
    clock.start()
    try:
        assert third.wait(_LONG_S)
    finally:
        clock.stop()


def test_a_tick_that_failed_is_told_by_its_name() -> None:
    failed = threading.Event()

    def run() -> None:
        if failed.is_set():
            return
        failed.set()
        raise StoreUnavailableError("the database is locked")

    with structlog.testing.capture_logs() as said:
        clock = ticker(reclaim=run)
        clock.start()
        assert failed.wait(_LONG_S)
        clock.stop()
    (told,) = said
    assert (told["event"], told["tick"], told["log_level"]) == ("tick failed", "reclaim", "warning")
    assert told["error"] == "the database is locked"


def test_a_tick_that_fails_does_not_hold_up_another() -> None:
    other = threading.Event()

    def fail() -> None:
        raise StoreUnavailableError("the database is locked")

    clock = ticker(route=fail, deliver=other.set)
    clock.start()
    try:
        assert other.wait(_LONG_S)
    finally:
        clock.stop()


def test_no_two_turns_of_one_tick_run_at_once() -> None:
    entered = threading.Semaphore(0)
    running = threading.Lock()
    overlapped = threading.Event()

    def run() -> None:
        if not running.acquire(blocking=False):
            overlapped.set()
            return
        try:
            entered.release()
            overlapped.wait(5 * _EVERY_S)  # longer than the next turns are away
        finally:
            running.release()

    clock = ticker(sweep=run)
    clock.start()
    try:
        assert all(entered.acquire(timeout=_LONG_S) for _ in range(3))
    finally:
        clock.stop()
    assert not overlapped.is_set()


def test_a_daily_tick_is_next_due_at_its_time_of_day() -> None:
    clock = Ticker((Tick(name="daily", at="05:30", run=lambda: None),))
    clock.start()
    try:
        (job,) = clock._scheduler.get_jobs()
        due = job.next_run_time
    finally:
        clock.stop()
    assert (due.hour, due.minute, due.utcoffset().total_seconds()) == (5, 30, 0)


def test_an_hourly_tick_is_due_within_the_hour_also_where_the_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it would stand still for as long as the clock was wrong."""
    clock = Ticker((Tick(name="hourly", at="*:17", run=lambda: None),), look_s=_EVERY_S)
    monkeypatch.setattr(scheduler, "datetime", Asked)
    clock.start()

    def due() -> datetime.datetime:
        (job,) = clock._scheduler.get_jobs()
        at: datetime.datetime = job.next_run_time
        return at

    try:
        first = due()
        assert first.minute == 17
        assert first - _DATETIME.now(datetime.UTC) <= datetime.timedelta(hours=1)
        assert Asked.asked.wait(_LONG_S)  # it knows a time from before
        set_back(monkeypatch)
        until = time.monotonic() + _LONG_S
        while due() == first and time.monotonic() < until:
            threading.Event().wait(_EVERY_S)
        assert first - due() == datetime.timedelta(hours=1)
    finally:
        clock.stop()


def test_stop_waits_for_the_turn_in_hand_and_no_more_come() -> None:
    entered, finished = threading.Semaphore(0), threading.Event()

    def run() -> None:
        entered.release()
        clock._stop.wait(_LONG_S)
        threading.Event().wait(5 * _EVERY_S)  # it goes on after all are told to stop
        finished.set()

    clock = ticker(reclaim=run)
    clock.start()
    assert entered.acquire(timeout=_LONG_S)
    clock.stop()
    assert finished.is_set()
    assert not entered.acquire(timeout=5 * _EVERY_S)


_DATETIME = datetime.datetime


class Back(datetime.datetime):
    """The time of day, set back by an hour."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "Back":
        moment = _DATETIME.now(tz) - datetime.timedelta(hours=1)
        return cls.combine(moment.date(), moment.timetz())


class Asked(datetime.datetime):
    """The time of day, and whether anybody has asked for it."""

    asked = threading.Event()

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "Asked":
        cls.asked.set()
        moment = _DATETIME.now(tz)
        return cls.combine(moment.date(), moment.timetz())


def set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock, for APScheduler, and then for whoever minds it and tells it the time."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith(("apscheduler", scheduler.__name__)) and hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", Back)


def test_ticks_go_on_where_the_time_of_day_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = threading.Semaphore(0)
    clock = ticker(route=entered.release)
    clock.start()
    try:
        assert entered.acquire(timeout=_LONG_S)
        set_back(monkeypatch)
        assert all(entered.acquire(timeout=_LONG_S) for _ in range(5))
    finally:
        clock.stop()
