"""The status page: HTML for people, JSON for monitors, and whether all is well for a probe.

| path           | is                                                                           |
|----------------|------------------------------------------------------------------------------|
| `/`            | the page, made anew every 10 seconds                                         |
| `/status.json` | the same in JSON; times in ISO 8601, UTC                                     |
| `/healthz`     | 200 "ok" while the database and the objects answer, else 503 and which       |

It runs in a process of its own: whoever asks, and however slowly, holds up no film.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from dicom_node.work.overview import Overview
from storage.errors import ObjectsUnavailableError, StorageError, StoreUnavailableError

_log = structlog.get_logger()

_PATIENCE_S = 10.0
_POLL_S = 0.2
_UNAVAILABLE, _OK, _NOT_FOUND = 503, 200, 404
_AWAY: dict[type[StorageError], str] = {
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


class StatusPage:
    """Answers while it is started; one question to the database at a time."""

    def __init__(
        self, address: tuple[str, int], about: About, look: Callable[[], Overview]
    ) -> None:
        """Listen at the address.

        Raises:
            OSError: it cannot be listened at.
        """
        self._about, self._look, self._lock = about, look, threading.Lock()
        self._server = ThreadingHTTPServer(address, _handler(self._answer))
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
            with self._lock:
                seen = self._look()
        except StorageError as fault:
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
