"""The clock: calls each tick again and again, and never two of a kind at once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from storage.errors import StorageError

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Work that is due every `every_s` seconds, or once a day `at` HH:MM UTC, each hour at *:MM."""

    name: str
    run: Callable[[], object]
    every_s: float = 0.0
    at: str = ""


class Ticker:
    """Runs ticks in the background; job state is never kept here, only time.

    Intervals are measured by a clock that nobody can set (Event.wait is monotonic): APScheduler,
    which waits for a time of day, would stand still for as long as the day's time was set back. So
    what it runs is given its time anew then, within `look_s`.
    """

    def __init__(self, ticks: tuple[Tick, ...], look_s: float = 60.0) -> None:
        # A thread each: a tick that waits for a peer holds up no other.
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(tick,), name=tick.name, daemon=True)
            for tick in ticks
            if not tick.at
        ]
        self._look_s = look_s
        self._threads.append(threading.Thread(target=self._mind_the_clock, daemon=True))
        daily = [tick for tick in ticks if tick.at]
        threads = ThreadPoolExecutor(max(1, len(daily)))
        self._scheduler = BackgroundScheduler(timezone="UTC", executors={"default": threads})
        for tick in daily:
            self._scheduler.add_job(
                _guarded(tick),
                _trigger(tick),
                id=tick.name,
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,  # late is better than never
            )

    def start(self) -> None:
        """Ticks come from now on."""
        self._scheduler.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """The ticks that run have finished and no more come."""
        self._stop.set()
        self._scheduler.shutdown(wait=True)
        for thread in self._threads:
            thread.join()

    def _mind_the_clock(self) -> None:
        """What waits for a time of day waits for the next one, though the clock was set back."""
        before = datetime.now(UTC)
        while not self._stop.wait(self._look_s):
            now = datetime.now(UTC)
            for job in self._scheduler.get_jobs() if now < before else ():
                job.reschedule(job.trigger)
            before = now

    def _repeat(self, tick: Tick) -> None:
        run = _guarded(tick)
        while not self._stop.wait(tick.every_s):
            run()


def _trigger(tick: Tick) -> CronTrigger:
    hour, minute = tick.at.split(":")
    return CronTrigger(hour=hour, minute=minute, timezone="UTC")


def _guarded(tick: Tick) -> Callable[[], None]:
    """The tick, with a store that is away logged, not raised: the next tick tries again."""

    def run() -> None:
        try:
            tick.run()
        except StorageError as fault:
            _log.warning("tick failed", tick=tick.name, error=str(fault))
        except Exception:  # noqa: BLE001 - a loop of the node: one bad turn must not end it
            _log.exception("tick failed", tick=tick.name)

    return run
