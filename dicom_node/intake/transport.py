"""Connections to the receiver, bounded in number, time and size before anybody is believed.

pynetdicom reads as much as a PDU's header promises and for as long as a byte comes now and then,
and makes a TLS handshake in the thread that accepts; here each connection has its own thread from
the first byte, a PDU has an end in bytes and in time, and so has a message.
"""

import heapq
import math
import queue
import socket
import ssl
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import structlog
from pynetdicom import evt
from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from dicom_node import tls, wire
from dicom_node.intake import titles

_log = structlog.get_logger()

_LEAST_BYTES = 1 << 18
"""A PDU may always have so many: an association request with 128 contexts has 90 KB."""
_HEADER_BYTES = 6  # PS3.8 9.3.1
_MOST_UNANSWERED = 16
"""Messages of one peer. It may have one: it is granted no asynchronous operations (PS3.7 D.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one connection may take.

    Args:
        handshake_s: for TLS, from the connection to its end.
        most_pdu_bytes: what we negotiate; a PDU that promises more ends its association.
        most_message_bytes: a command and its data set, however many PDUs they come in.
        message_s: for all of one message, from its first byte to its last.
        most_bytes_at_once: of all messages that are under way, or wait for their answer, on all
            connections together.
        most_connections: at once.
        most_per_address: at once, from one address.
    """

    handshake_s: float
    most_pdu_bytes: int
    most_message_bytes: int
    message_s: float
    most_bytes_at_once: int
    most_connections: int
    most_per_address: int


class Traffic:
    """The messages of all connections that have begun and are not answered, held in memory."""

    def __init__(self) -> None:
        # Weakly: a connection that died in an odd way must not be counted for ever.
        self._sockets: weakref.WeakSet[BoundedSocket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def join(self, connection: "BoundedSocket") -> None:
        """Its messages are counted from now on."""
        with self._lock:
            self._sockets.add(connection)

    @property
    def size_bytes(self) -> int:
        """Of all of them."""
        with self._lock:
            return sum(connection.held_bytes for connection in self._sockets)


class Server(ThreadedAssociationServer):
    """Listens, and bounds the connections; set `bounds` before it serves."""

    daemon_threads = True
    request_queue_size = 128  # many modalities connect at once after an outage
    bounds: Bounds
    tls_context: ssl.SSLContext | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._shaking: Counter[str] = Counter()
        self.traffic = Traffic()
        self._lock = threading.Lock()
        super().__init__(*args, **kwargs)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Refuse connections beyond what could ever be served."""
        address = str(client_address[0])
        there: list[Any] = list(self.active_associations)
        addresses = [assoc.requestor.address_info.address for assoc in there]
        with self._lock:
            total = len(addresses) + self._shaking.total()
            theirs = addresses.count(address) + self._shaking[address]
        if total < self.bounds.most_connections and theirs < self.bounds.most_per_address:
            return True
        _log.warning("connection refused", address=address, theirs=theirs, total=total)
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count it from here, where the one thread is that accepts.

        Raises:
            RuntimeError: the system gives no thread for it; its connection is closed.
        """
        address = str(client_address[0])
        with self._lock:
            self._shaking[address] += 1
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._hand_over(address)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """In the log, not as a traceback to the terminal."""
        _log.exception("connection failed", address=client_address[0])

    @contextmanager
    def handed_over(self, address: str) -> Iterator[None]:
        """Afterwards it counts as an association, or not at all."""
        try:
            yield
        finally:
            self._hand_over(address)

    def _hand_over(self, address: str) -> None:
        with self._lock:
            self._shaking[address] -= 1
            self._shaking += Counter()  # those at zero go


class Handler(RequestHandler):
    """One connection, in its own thread: handshake, then association."""

    server: Server

    def handle(self) -> None:
        """The association has begun, or its peer was refused and the log says why."""
        address = str(self.client_address[0])
        with self.server.handed_over(address):
            if self.server.tls_context is not None and not self._shake_hands(address):
                return
            super().handle()

    def _shake_hands(self, address: str) -> bool:
        context = cast(ssl.SSLContext, self.server.tls_context)
        self.request.settimeout(self.server.bounds.handshake_s)  # of all of it, not of each read
        try:
            self.request = context.wrap_socket(self.request, server_side=True)
        except OSError as fault:
            _log.warning("TLS refused", address=address, reason=tls.reason(fault))
            with suppress(OSError):
                self.request.close()
            return False
        return True

    def _create_association(self) -> Any:
        assoc: Any = super()._create_association()
        assoc.dul.event_queue.get_nowait()  # its own socket's word that the connection is there
        bounded = BoundedSocket(assoc, self.request, self.server.bounds, self.server.traffic)
        assoc.dul.socket = bounded
        for event, note in bounded.handlers:
            assoc.bind(event, note)
        assoc.dimse.receive_primitive = partial(_receive, assoc, assoc.dimse.receive_primitive)
        machine = assoc.dul.state_machine
        machine.do_action = partial(_act, assoc, machine.do_action)
        return assoc


def _act(assoc: Any, act: Callable[[str], None], event: str) -> None:
    """The state machine of PS3.8 9.2 takes a step, or ends where the event has no place.

    Such a one is ours: an answer to a peer whose association has ended meanwhile. Nothing is left
    to be done then, and its connection is closed; pynetdicom's thread would die of it, and say so.
    """
    try:
        act(event)
    except InvalidEventError:
        assoc.dul.kill_dul()


def _receive(assoc: Any, receive: Callable[[Any], None], primitive: Any) -> None:
    """A piece of a message is read; one that cannot be ends its association, as pynetdicom means.

    It foresees that of whole messages only (PS3.8 9.2, Evt19): else its thread dies, and the
    connection stays open with nobody to serve it.
    """
    try:
        receive(primitive)
    except Exception as fault:  # noqa: BLE001 - whatever a peer's bytes do to its reader
        reason, address = "unreadable message", assoc.requestor.address_info.address
        _log.warning(
            "association ended", reason=reason, address=address, fault=type(fault).__name__
        )
        assoc.dul.event_queue.put("Evt19")


class BoundedSocket(AssociationSocket):
    """Reads PDUs of a bounded size within a bounded time, and messages of a bounded size."""

    def __init__(
        self, assoc: Any, client_socket: socket.socket, bounds: Bounds, traffic: Traffic
    ) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._traffic, self._most_bytes_at_once = traffic, bounds.most_bytes_at_once
        self._most_pdu_bytes = max(bounds.most_pdu_bytes, _LEAST_BYTES) + _HEADER_BYTES
        self._most_message_bytes = bounds.most_message_bytes
        self._message_s = bounds.message_s
        self._command = wire.CommandSet()
        self._unanswered: list[int] = []
        """A heap of sizes in bytes: what came whole, and is kept in memory until it is answered."""
        self._begin_message()
        traffic.join(self)

    @property
    def handlers(self) -> list[tuple[Any, Any]]:
        """What its association is to be bound to."""
        return [
            (evt.EVT_ACCEPTED, lambda _: self._begin_message()),
            (evt.EVT_DIMSE_RECV, lambda _: self._hold_message()),
            (evt.EVT_DIMSE_SENT, lambda _: self._let_go()),
        ]

    @property
    def held_bytes(self) -> int:
        """What has come and is not answered."""
        return self.message_bytes + sum(self._unanswered)

    def _begin_message(self) -> None:
        """What is read from now on is another message; its time begins with its first byte."""
        self.message_bytes = 0
        self._message_until: float | None = None
        self._command.begin()

    def _hold_message(self) -> None:
        heapq.heappush(self._unanswered, self.message_bytes)  # several threads: one step of C
        self._begin_message()

    def _let_go(self) -> None:
        """One is answered. It counts as the smallest: which it was is not known here."""
        with suppress(IndexError):
            heapq.heappop(self._unanswered)

    def _shutdown_socket(self) -> None:
        """What has come is given up, since nobody can be answered: pynetdicom would keep it."""
        super()._shutdown_socket()
        self._begin_message()
        with suppress(queue.Empty):
            while True:
                _, message = self.assoc.dimse.msg_queue.get_nowait()
                if message is not None:
                    self._let_go()

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, or fewer where the peer has hung up.

        Raises:
            OSError: they would be too many, or did not all come within the socket's time-out.
        """
        if self._message_until is None:
            self._message_until = time.monotonic() + self._message_s
        self.message_bytes += nr_bytes
        if nr_bytes > self._most_pdu_bytes:
            self._refuse("PDU too large", nr_bytes)
        if self.message_bytes > self._most_message_bytes:
            self._refuse("message too large", self.message_bytes)
        if len(self._unanswered) > _MOST_UNANSWERED:
            self._refuse("too many requests at once", self.held_bytes)
        is_large = self.held_bytes > _LEAST_BYTES  # echoes and requests are not to blame
        if is_large and self._traffic.size_bytes > self._most_bytes_at_once:
            self._refuse("too much under way at once", self.held_bytes)
        if time.monotonic() > self._message_until:
            self._refuse("message too slow", self.message_bytes)
        piece = self._read(cast(socket.socket, self.socket), nr_bytes)
        if self._command.pdu_type == wire.A_ASSOCIATE_RQ:
            piece = self._with_titles(piece)
        if not self._command.takes(piece):
            self._refuse("command set too large", self._command.size_bytes)
        return piece

    def _read(self, connection: socket.socket, nr_bytes: int) -> bytearray:
        patience_s = connection.gettimeout()
        until = self._message_until
        if patience_s is not None:
            until = min(time.monotonic() + patience_s, until or math.inf)
        return wire.read(connection, nr_bytes, until)

    def _with_titles(self, body: bytearray) -> bytearray:
        """An association request whose AE titles pynetdicom can read.

        Raises:
            OSError: one of them is none; the peer is told so.
        """
        body = titles.padded(body)
        if refused := titles.refused(body):
            rejection, title = refused
            _log.warning(
                "association rejected",
                reason=f"{rejection.reason}: empty, or with bytes that none may have (PS3.5 6.2)",
                ae_title=title,
                address=cast(Any, self.assoc.requestor).address_info.address,
            )
            with suppress(OSError):
                cast(socket.socket, self.socket).sendall(rejection.pdu)
            raise OSError(rejection.reason)
        return body

    def _refuse(self, reason: str, size_bytes: int) -> None:
        peer: Any = self.assoc.requestor
        address = peer.address_info.address
        _log.warning("association ended", reason=reason, size_bytes=size_bytes, address=address)
        self._begin_message()  # counts no more, however long the connection takes to close
        with suppress(OSError):
            cast(socket.socket, self.socket).sendall(wire.ABORT)
        raise OSError(reason)
