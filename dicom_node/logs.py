"""The log: one event a line, keys and values, never patient data."""

import logging
import sys
import traceback
from types import TracebackType

import structlog
from structlog.typing import EventDict


def configure(level: str, form: str) -> None:
    """Events of `level` and above go to standard error, as "json" or for the "console"."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_words,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # The libraries' own records: what they warn of only, as they may hold what a sender sent.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _without_words(_logger: object, _method: str, event: EventDict) -> EventDict:
    """An exception as its type and where it was, without its message, which may quote a patient."""
    fault = event.pop("exc_info", None)
    if fault is True:
        fault = sys.exc_info()[1]
    if isinstance(fault, tuple):
        fault = fault[1]
    if isinstance(fault, BaseException):
        event["exception"] = type(fault).__qualname__
        event["frames"] = _frames(fault.__traceback__)
    return event


def _frames(trace: TracebackType | None) -> list[str]:
    """file:line function, outermost first."""
    return [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace)]
