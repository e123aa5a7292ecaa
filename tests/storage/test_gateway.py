"""What is before a bucket answers in place of it: that is the moment's, and no object's fault."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from storage.errors import ObjectMissingError, ObjectsUnavailableError, ObjectUnreadableError
from storage.objects import FsspecObjectStore
from tests.storage.bucket import S3Server

_PAGE = b"<html><body>back in a minute</body></html>"
_LENGTHS = {"content-length", "transfer-encoding", "connection"}


class _Gateway(ThreadingHTTPServer):
    """Hands on what is asked; so often as it is `lying` it answers with a page of its own."""

    def __init__(self, port: int) -> None:
        self.port, self.lying, self.of_all = port, 0, False
        super().__init__(("127.0.0.1", 0), _Relay)

    def lies(self, command: str, path: str) -> bool:
        """Whether it does now: to who gets a film, or to all."""
        gets_film = command == "GET" and path.split("?")[0].endswith(".dcm")
        if not self.lying or not (gets_film or self.of_all):
            return False
        self.lying -= 1
        return True


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Gateway

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.lies(self.command, self.path):
            self._answer(200, [("Content-Type", "text/html")], _PAGE)
            return
        real = http.client.HTTPConnection("127.0.0.1", self.server.port)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        real.request(self.command, self.path, body, dict(self.headers))
        answer = real.getresponse()
        self._answer(answer.status, answer.getheaders(), answer.read())
        real.close()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        kept = [(name, value) for name, value in headers if name.lower() not in _LENGTHS]
        for name, value in (*kept, ("Content-Length", dict(headers).get("Content-Length", ""))):
            self.send_header(name, value or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def gateway_to(port: int) -> Iterator[_Gateway]:
    with _Gateway(port) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        try:
            yield gateway
        finally:
            gateway.shutdown()


@pytest.mark.parametrize("of_all", [False, True])
def test_a_page_in_place_of_a_film_is_the_moment_s_and_not_the_film_s(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch, of_all: bool
) -> None:
    """Where all else is given, it is of that film alone; else the service is away."""
    place = bucket.place()
    ref = FsspecObjectStore(place).keep("received/ab/film.dcm", b"DICM")
    with gateway_to(bucket.port) as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gateway.server_port}")
        store = FsspecObjectStore(place)
        gateway.lying, gateway.of_all = 99, of_all
        for look in (store.read, store.whole_path):
            with pytest.raises(ObjectsUnavailableError if of_all else ObjectUnreadableError):
                look(ref)
        gateway.lying = 1
        assert store.read(ref) == b"DICM"
        assert store.read(ref) == b"DICM"


@pytest.mark.parametrize("other", [b"DICN", b"DIC", b""])
def test_a_film_that_has_other_bytes_is_damaged(bucket: S3Server, other: bytes) -> None:
    place = bucket.place()
    store, by_another = FsspecObjectStore(place), FsspecObjectStore(place)
    ref = store.keep("received/ab/film.dcm", b"DICM")
    by_another.keep("received/ab/film.dcm", other)
    with pytest.raises(ObjectMissingError, match="damaged"):
        store.read(ref)
