"""The clock: APScheduler calls each tick again and again, and never two of a kind at once."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from storage.errors import StorageError

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Work that is due every `every_s` seconds, or once a day `at` HH:MM UTC."""

    name: str
    run: Callable[[], object]
    every_s: float = 0.0
    at: str = ""


class Ticker:
    """Runs ticks in the background; job state is never kept here, only time."""

    def __init__(self, ticks: tuple[Tick, ...]) -> None:
        # A thread each: a tick that waits for a peer holds up no other.
        threads = ThreadPoolExecutor(max(1, len(ticks)))
        self._scheduler = BackgroundScheduler(timezone="UTC", executors={"default": threads})
        for tick in ticks:
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

    def stop(self) -> None:
        """The ticks that run have finished and no more come."""
        self._scheduler.shutdown(wait=True)


def _trigger(tick: Tick) -> BaseTrigger:
    if not tick.at:
        return IntervalTrigger(seconds=tick.every_s, timezone="UTC")
    hour, minute = map(int, tick.at.split(":"))
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
