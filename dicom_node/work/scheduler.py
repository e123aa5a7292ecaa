"""The clock: APScheduler calls each tick again and again, and never two of a kind at once."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from storage.errors import StorageError

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Work that is due every `every_s` seconds."""

    name: str
    every_s: float
    run: Callable[[], object]


class Ticker:
    """Runs ticks in the background; job state is never kept here, only time."""

    def __init__(self, ticks: tuple[Tick, ...]) -> None:
        self._scheduler = BackgroundScheduler(timezone="UTC")
        for tick in ticks:
            self._scheduler.add_job(
                _guarded(tick),
                "interval",
                seconds=tick.every_s,
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
