"""A DICOMweb server that does as it is told, and remembers every request."""

import contextlib
import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from urllib.parse import parse_qs, urlsplit

from tests.delivery import slow

HANG_UP = -1
Json = dict[str, object]


@dataclass(slots=True)
class Web:
    """What it was asked, and what it answers next: the instance is stored where nothing is left.

    An answer without words says what a server should: that it has stored what was sent. It reads a
    body in pieces of `piece_bytes`, and rests for `piece_s` after each; and it writes an answer
    byte by byte, where it rests for `pause_s` after each. Statuses `first` are said before it.
    A search finds what is in `found`, of which it names a page; or it says what is `raw`. One for
    an instance has a status of its own where `search_statuses` has that.
    """

    url: str = ""
    answers: list[tuple[int, Json | str | None]] = field(default_factory=list)
    media_type: str = "application/dicom+json"
    zipped: bool = False
    location: str = ""
    first: tuple[int, ...] = ()
    pause_s: float = 0.0
    piece_bytes: int = 1 << 30
    piece_s: float = 0.0
    found: list[Json] = field(default_factory=list)
    raw: str = ""
    search_status: int = 200
    search_statuses: dict[str, int] = field(default_factory=dict)
    page_size: int = 1 << 30
    heeds_filters: bool = True
    bodies: list[bytes] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    authorisation: list[str] = field(default_factory=list)

    def page(self, path: str) -> list[Json]:
        """The first page of what a search finds (PS3.18 8.3.4)."""
        asked = parse_qs(urlsplit(path).query).get("SOPInstanceUID")
        everything = asked is None or not self.heeds_filters
        found = [one for one in self.found if everything or one in map(instance, asked or ())]
        return found[: self.page_size]


def failed(reason: int, uid: str = "") -> Json:
    """A Store Instances Response that names one failure (PS3.18 table 10.5.3-1)."""
    item: Json = {"00081197": {"vr": "US", "Value": [reason]}}
    if uid:
        item["00081155"] = {"vr": "UI", "Value": [uid]}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def stored(uid: str, warning: int | None = None, *, empty: bool = False) -> Json:
    """One that names an instance as stored, perhaps with a warning, or with an empty one."""
    item: Json = {"00081155": {"vr": "UI", "Value": [uid]}}
    if empty:
        item["00081196"] = {"vr": "US"}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return {"00081199": {"vr": "SQ", "Value": [item]}}


def _uid_in(body: bytes) -> str:
    """The Media Storage SOP Instance UID (0002,0003) of the file that was sent."""
    at = body.index(b"\x02\x00\x03\x00UI") + 6
    length = int.from_bytes(body[at : at + 2], "little")
    return body[at + 2 : at + 2 + length].rstrip(b"\0").decode()


def instance(uid: str) -> Json:
    """What QIDO-RS says of one."""
    return {"00080018": {"vr": "UI", "Value": [uid]}}


def _read(file: BufferedIOBase, size: int, web: Web) -> bytes:
    whole = b""
    while piece := file.read(min(web.piece_bytes, size - len(whole))):
        whole += piece
        threading.Event().wait(web.piece_s)
    return whole


def _write(file: BufferedIOBase, body: bytes, pause_s: float) -> None:
    """All at once, or byte by byte with a pause after each."""
    with contextlib.suppress(OSError):  # who waited has gone
        for i in range(0, len(body), 1 if pause_s else len(body)):
            file.write(body[i : i + 1] if pause_s else body)
            threading.Event().wait(pause_s)


def _interim(statuses: tuple[int, ...]) -> bytes:
    """What is said before an answer (RFC 9110, 15.2)."""
    return b"".join(
        b"HTTP/1.1 %d Wait\r\nLink: </style.css>\r\n\r\n" % status for status in statuses
    )


def _encoded(said: object, web: Web) -> bytes:
    plain = said.encode() if isinstance(said, str) else json.dumps(said).encode()
    return gzip.compress(plain) if web.zipped else plain


@contextmanager
def running(context: ssl.SSLContext | None = None) -> Iterator[Web]:
    """It listens at a port of the system's choice, by TLS where a context is given."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            web.authorisation.append(self.headers.get("Authorization") or "")
            web.bodies.append(self._body())
            status, said = web.answers.pop(0) if web.answers else (200, None)
            if status == HANG_UP:
                self.close_connection = True
                return
            self._answer(status, stored(_uid_in(web.bodies[-1])) if said is None else said)

        def do_GET(self) -> None:
            web.searches.append(self.path)
            uid = self.path.partition("SOPInstanceUID=")[2]
            status = web.search_statuses.get(uid, web.search_status)
            self._answer(status, web.raw or web.page(self.path))

        def _body(self) -> bytes:
            length = self.headers.get("Content-Length")
            if length is not None:
                return _read(self.rfile, int(length), web)
            whole = b""
            while size := int(self.rfile.readline(), 16):  # chunked
                whole += _read(self.rfile, size, web)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        def _answer(self, status: int, said: object) -> None:
            body = _encoded(said, web)
            self.wfile.write(_interim(web.first))
            self.send_response(status)
            if web.location:
                self.send_header("Location", web.location)
            self.send_header("Content-Type", web.media_type)
            self.send_header("Content-Encoding", "gzip" if web.zipped else "identity")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            _write(self.wfile, body, web.pause_s)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with _served(Handler, context) as port:
        web.url = f"http{'s' if context else ''}://127.0.0.1:{port}/dicom-web"
        yield web


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None) -> Iterator[int]:
    """The port of a server that answers by it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # What it has not read yet is not taken: the system would hold some MB of it.
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def trickling(
    context: ssl.SSLContext | None = None, begins: bytes = b"HTTP/1.1 200 OK\r\nX-Long: "
) -> Iterator[str]:
    """The URL of a server whose answer begins so and has no end."""
    with slow.trickling(begins, context) as port:
        yield f"http{'s' if context else ''}://127.0.0.1:{port}"


def hasty(
    context: ssl.SSLContext | None = None, *, closes: bool = True
) -> AbstractContextManager[str]:
    """The URL of a server that says 413 to whatever begins, and reads no more of it."""
    said = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    return _saying(said, context, closes=closes)


def stuffed(context: ssl.SSLContext | None = None) -> AbstractContextManager[str]:
    """The URL of a server that takes a little of what comes, and no more, and says nothing."""
    return _saying(b"", context, closes=False)


@contextmanager
def _saying(said: bytes, context: ssl.SSLContext | None, *, closes: bool) -> Iterator[str]:
    over = threading.Event()

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with contextlib.suppress(OSError), connection:
            connection.recv(1 << 16)
            connection.sendall(said)
            if not closes:
                over.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join(10)
