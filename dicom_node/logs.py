"""The log: one event a line, keys and values, never patient data."""

import logging
import os
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict

from storage.words import legible

_LONGEST = 200  # characters of a library's message


class _Unfailing:
    """Standard error, whose disk may be full or whose reader may be gone: the node goes on.

    What it says then is lost. Raised, it would end whatever spoke: a worker, a tick, the receiver;
    and multiprocessing, which flushes standard error first, could start no process any more.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """What can be written is."""
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)

    def flush(self) -> None:
        """The same."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """All else is as it was."""
        if name == "_stream":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._stream, name)


def configure(level: str, form: str) -> None:
    """Events of `level` and above go to standard error, as "json" or for the "console"."""
    _make_unfailing()
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_words,
        _legible,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=_unfailing_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    _route_libraries(shared, renderer)
    threading.excepthook = _thread_died


def _unfailing_logger(level: int) -> type[structlog.typing.BindableLogger]:
    """Of events from that level on; one that cannot be said is said by its name and why.

    That is lost too where nothing can be, for want of memory. Raised, it would answer for whoever
    speaks: a film that is kept would be refused for good.
    """
    filtering: Any = structlog.make_filtering_bound_logger(level)

    class Logger(filtering):  # type: ignore[misc]  # made while the program runs
        def _proxy_to_logger(
            self, method: str, event: Any = None, /, *args: Any, **said: Any
        ) -> None:
            try:
                super()._proxy_to_logger(method, event, *args, **said)
            except Exception as fault:  # noqa: BLE001 - whatever a value does to who writes it
                with suppress(Exception):
                    # Not self.new(), which takes from us, too, what is bound.
                    bare = self.__class__(self._logger, self._processors, {})
                    nothing_bound: Any = super(Logger, bare)
                    nothing_bound._proxy_to_logger(method, event, unsaid=type(fault).__qualname__)

    return Logger


def _make_unfailing() -> None:
    """Standard error; a process that was started without one says nothing."""
    stream: object = sys.stderr
    if stream is None:
        stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the process's
    if not isinstance(stream, _Unfailing):
        sys.stderr = cast(TextIO, _Unfailing(cast(TextIO, stream)))


def _route_libraries(
    shared: list[structlog.types.Processor], renderer: structlog.types.Processor
) -> None:
    """The libraries' own records come in the same form: what they warn of, without its words,
    which may hold what a sender sent; pynetdicom's, which quote peers, not at all."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_library_record, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _library_record(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A foreign record as the library's name and its unformatted words, without their arguments."""
    record: logging.LogRecord = event["_record"]
    return {**event, "library": record.name, "event": str(record.msg)[:_LONGEST]}


def _thread_died(died: threading.ExceptHookArgs) -> None:
    """A thread that an exception ended is one line of the log, as everything else."""
    name = died.thread.name if died.thread else ""
    structlog.get_logger().error("thread died", thread=name, exc_info=died.exc_value)


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


def _legible(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Without what a terminal would obey: peers choose their UIDs, titles and comments."""
    return {key: legible(said) if isinstance(said, str) else said for key, said in event.items()}


def _frames(trace: TracebackType | None) -> list[str]:
    """file:line function, outermost first."""
    return [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace)]
