"""The status page: HTML for people, JSON for monitors, and whether all is well for a probe.

| path           | is                                                                           |
|----------------|------------------------------------------------------------------------------|
| `/`            | the page, made anew every 10 seconds                                         |
| `/status.json` | the same in JSON; times in ISO 8601, UTC                                     |
| `/healthz`     | 200 "ok" while the database and the objects answer, else 503 and which       |

It runs in a process of its own: whoever asks, and however slowly, holds up no film. A database that
is slow is away to whoever has waited for it.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from dicom_node.work.overview import Overview
from storage.errors import ObjectsUnavailableError, StorageError, StoreUnavailableError

_log = structlog.get_logger()

_PATIENCE_S = 10.0
_POLL_S = 0.2
_MOST_AT_ONCE = 64
"""Connections, each of which has a thread."""
_UNAVAILABLE, _OK, _NOT_FOUND = 503, 200, 404
_AWAY: dict[type[Exception], str] = {
    StoreUnavailableError: "the database is away",
    ObjectsUnavailableError: "the objects are away",
}
_STYLE = (
    "body{font:15px system-ui;margin:2em;max-width:60em}"
    "td,th{text-align:left;padding:.2em .8em .2em 0;vertical-align:top}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change while the node runs."""

    version: str
    model: str
    ae_title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What is answered: status, media type and text."""

    status: int
    kind: str
    text: str


class _Server(ThreadingHTTPServer):
    """A bounded number of connections at once; one beyond it is closed.

    Whoever has not asked in time is read no further, however steadily its bytes drip.
    """

    request_queue_size = _MOST_AT_ONCE

    def __init__(self, *args: Any, patience_s: float) -> None:
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)
        self._patience_s, self._begun_s = patience_s, dict[Any, float]()
        super().__init__(*args)

    def service_actions(self) -> None:
        """Every poll: those who are late have come to the end of what they say."""
        before_s = time.monotonic() - self._patience_s
        for request, begun_s in self._begun_s.copy().items():
            if begun_s < before_s:
                with suppress(OSError):  # it has ended
                    request.shutdown(socket.SHUT_RD)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own.

        Raises:
            RuntimeError: the system gives none; the connection is closed.
        """
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._begun_s[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._end(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """It is answered, and there is room again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._end(request)

    def _end(self, request: Any) -> None:
        del self._begun_s[request]
        self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """In the log, not as a traceback to the terminal; that who asked has gone is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("status page failed", address=client_address[0])


class StatusPage:
    """Answers while it is started; one question to the database at a time."""

    def __init__(
        self,
        address: tuple[str, int],
        about: About,
        look: Callable[[], Overview],
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Listen at the address; `patience_s` is how long a question, and the database, may take.

        Raises:
            OSError: it cannot be listened at.
        """
        self._about, self._look, self._patience_s = about, look, patience_s
        self._lock, self._looking = threading.Lock(), Future[Overview]()
        self._looking.cancel()  # nobody is
        self._server = _Server(address, _handler(self._answer), patience_s=patience_s)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="status", daemon=True
        )

    @property
    def port(self) -> int:
        """The port listened at."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Questions are answered from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Nothing is listened at any more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> _Answer:
        if path not in ("/", "/status.json", "/healthz"):
            return _Answer(status=_NOT_FOUND, kind="text/plain", text="not found\n")
        try:
            seen = self._seen()
        except (StorageError, OSError) as fault:
            _log.warning("status unknown", reason=str(fault))
            # Its own words may name hosts.
            why = _AWAY.get(type(fault), "storage cannot be used")
            return _Answer(status=_UNAVAILABLE, kind="text/plain", text=f"{why}: see the log\n")
        if path == "/healthz":
            return _Answer(status=_OK, kind="text/plain", text="ok\n")
        said = as_json(self._about, seen)
        if path == "/":
            return _Answer(status=_OK, kind="text/html", text=_page(said))
        return _Answer(status=_OK, kind="application/json", text=json.dumps(said, indent=1))

    def _seen(self) -> Overview:
        """What there is now, or what is being looked at already.

        Raises:
            StorageError, OSError: it cannot be seen, or not in time.
        """
        with self._lock:
            if self._looking.done():
                self._looking = _begun(self._look)
            looking = self._looking
        try:
            return looking.result(self._patience_s)
        except TimeoutError as fault:
            raise StoreUnavailableError(f"no answer in {self._patience_s:g} s") from fault


def _begun(look: Callable[[], Overview]) -> Future[Overview]:
    """In a thread that nobody has to wait for, at the end neither."""
    looking = Future[Overview]()

    def run() -> None:
        try:
            looking.set_result(look())
        except Exception as fault:  # noqa: BLE001 - it is raised to whoever waits
            looking.set_exception(fault)

    threading.Thread(target=run, name="status look", daemon=True).start()
    return looking


def as_json(about: About, seen: Overview) -> dict[str, object]:
    """The overview as `/status.json` has it."""
    last = seen.reconciled
    return {
        "at": seen.at.isoformat(),
        "version": about.version,
        "model": about.model,
        "model_trouble": seen.model_trouble or None,
        "ae_title": about.ae_title,
        "waiting": seen.waiting,
        "jobs": {str(count.state): count.number for count in seen.jobs},
        "oldest_open_job": _time(seen.oldest_open),
        "free_mb": seen.free_mb,
        "destinations": [line.as_json() for line in seen.destinations],
        "reconciled": last
        and {"at": last.at.isoformat(), "counts": last.counts, "missing": list(last.missing)},
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _page(said: dict[str, object]) -> str:
    """The same facts as nested tables."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=10>"
        f"<title>VALD node</title><style>{_STYLE}</style><h1>VALD node</h1>{_html(said)}"
        "<p>For research, not for diagnosis. <code>vald-node reconcile</code> says of each missing "
        "film why.</html>"
    )


def _html(value: object) -> str:
    if isinstance(value, dict):
        rows = (f"<tr><th>{escape(_title(k))}<td>{_html(v)}" for k, v in value.items())
        return f"<table>{''.join(rows)}</table>"
    if isinstance(value, list):
        return "<br>".join(map(_html, value)) or "none"
    return "-" if value is None or value == "" else escape(str(value))


def _title(key: object) -> str:
    return str(key).replace("_", " ")


def _handler(answer: Callable[[str], _Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S
        server_version, sys_version = "VALD", ""

        def do_GET(self) -> None:
            said = answer(self.path.partition("?")[0])
            body = said.text.encode()
            self.send_response(said.status)
            self.send_header("Content-Type", f"{said.kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: probes come every few seconds."""

    return Handler
