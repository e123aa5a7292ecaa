"""The log: one event a line, keys and values, never patient data."""

import logging
import sys

import structlog


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
            structlog.processors.format_exc_info,
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
