"""Peers that take more than their share: of bytes, of time, of connections."""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing

from dicom_node import wire
from dicom_node.intake import transport
from dicom_node.intake.transport import Server
from tests.intake.conftest import GatedStore, Receiver, Start
from tests.intake.films import encoded, film
from tests.intake.sender import Told, association, rejection_of, send, store

SUCCESS = Told(status=0x0000, comment="")
ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"  # PS3.8 table 9-26
_LONG_S = 30.0
_FAR_MORE_THAN_UNSPOKEN = 150
"""Connections of one address that may be there without an association."""


def is_alive(receiver: Receiver) -> bool:
    with association(receiver.port) as assoc:
        return store(assoc, encoded(film())) == SUCCESS


def test_connections_for_which_no_thread_was_free_are_forgotten(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = start(max_associations_per_address=1)

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", none)
        for _ in range(_FAR_MORE_THAN_UNSPOKEN):
            with socket.create_connection(("127.0.0.1", receiver.port), timeout=_LONG_S) as lost:
                assert lost.recv(1) == b""
    assert is_alive(receiver)


@pytest.mark.parametrize("kind", [0x01, 0x04])
def test_a_pdu_that_promises_too_much_is_not_waited_for(receiver: Receiver, kind: int) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=_LONG_S) as connection:
        connection.sendall(struct.pack(">BBL", kind, 0, 1 << 28))
        assert connection.recv(100) == ABORT
        assert connection.recv(100) == b""
    assert is_alive(receiver)


def test_a_large_pdu_within_an_association_ends_it_and_leaves_nothing(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        assoc.dul.socket.socket.sendall(struct.pack(">BBL", 0x04, 0, 1 << 30))
        _wait_until(lambda: not assoc.is_established)
    assert receiver.store.received(10) == []
    assert is_alive(receiver)


def test_a_film_in_pdus_as_large_as_was_negotiated_is_taken(start: Start) -> None:
    receiver = start(max_pdu=1 << 20)
    with association(receiver.port) as assoc:
        assert store(assoc, encoded(film(rows=60_000))) == SUCCESS


def test_a_message_without_end_is_cut_off_at_its_limit(start: Start) -> None:
    receiver = start(limits={"max_message_mb": 16})
    with association(receiver.port) as assoc:
        raw = assoc.dul.socket.socket
        piece = bytes(60_000)
        context = assoc.accepted_contexts[0].context_id
        # A fragment of a data set that is not the last (PS3.8 E.2).
        pdv = struct.pack(">LBB", len(piece) + 2, context, 0x00) + piece
        pdu = struct.pack(">BBL", 0x04, 0, len(pdv)) + pdv
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 << 20:
                sent += raw.send(pdu)
        assert sent < 32 << 20
    assert is_alive(receiver)


def pdu(assoc: Any, control: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU of one fragment with this message control header (PS3.8 9.3.5, E.2)."""
    context = assoc.accepted_contexts[0].context_id
    pdv = struct.pack(">LBB", len(fragment) + 2, context, control) + fragment
    return struct.pack(">BBL", 0x04, 0, len(pdv)) + pdv


COMMAND, LAST_OF_COMMAND, LAST_OF_DATA_SET = 0x01, 0x03, 0x02
EMPTY_ELEMENTS = b"".join(struct.pack("<HHL", 0x0009, n, 0) for n in range(1000))
C_STORE_WITH_DATA_SET = struct.pack("<HHLHHHLH", 0, 0x0100, 2, 0x0001, 0, 0x0800, 2, 0x0001)


def refusal(receiver: Receiver, said: Callable[[Any], Iterator[bytes]]) -> dict[str, Any]:
    """What the log says of an association that says this, and is aborted for it."""
    with association(receiver.port) as assoc, structlog.testing.capture_logs() as log:
        raw = assoc.dul.socket.socket  # the association forgets it as soon as it is aborted
        with contextlib.suppress(OSError):
            for piece in said(assoc):
                raw.sendall(piece)
        _wait_until(lambda: not assoc.is_established)
        _wait_until(lambda: [line for line in log if line["event"] == "association ended"])
    (line,) = [line for line in log if line["event"] == "association ended"]
    return dict(line)


def test_a_command_set_is_cut_off_at_its_limit(receiver: Receiver) -> None:
    """Each element of it becomes an object, and none is needed beyond some twenty."""
    line = refusal(receiver, lambda assoc: repeat(pdu(assoc, COMMAND, EMPTY_ELEMENTS), 100))
    assert line["reason"] == "command set too large"
    assert line["size_bytes"] < 1 << 15
    assert is_alive(receiver)


def test_a_command_set_ends_once(receiver: Receiver) -> None:
    """It is read anew, from its beginning, at each end."""
    line = refusal(
        receiver, lambda assoc: repeat(pdu(assoc, LAST_OF_COMMAND, C_STORE_WITH_DATA_SET), 100)
    )
    assert line["reason"] == "command set too large"
    assert line["size_bytes"] == 2 * len(C_STORE_WITH_DATA_SET)
    assert is_alive(receiver)


@pytest.mark.parametrize(
    "command",
    [
        struct.pack("<HHLH", 0, 0x0800, 2, 0x0101),  # no Command Field
        struct.pack("<HHLHHHLH", 0, 0x0100, 2, 0x7777, 0, 0x0800, 2, 0x0101),  # none that there is
        b"\x00" * 7,
        b"",
    ],
)
def test_a_command_set_that_cannot_be_read_ends_its_association(
    receiver: Receiver, command: bytes
) -> None:
    line = refusal(receiver, lambda assoc: iter([pdu(assoc, LAST_OF_COMMAND, command)]))
    assert line["reason"] == "unreadable message"
    assert is_alive(receiver)


def test_a_step_that_has_no_place_ends_the_connection_and_kills_no_thread(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an answer that meets the end of its association, which is seldom so by chance."""
    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    with association(receiver.port) as assoc:
        assert receiver.scp._server is not None
        (ours,) = receiver.scp._server.active_associations
        ours.dul.event_queue.put("Evt1")  # of an association that is still to be requested
        _wait_until(lambda: not assoc.is_established)
        _wait_until(lambda: not ours.is_alive() and not ours.dul.is_alive())
    assert is_alive(receiver)
    assert not [one for one in died if one.thread in (ours, ours.dul)]


def test_messages_that_are_under_way_have_a_limit_together(start: Start) -> None:
    receiver = start(limits={"max_message_mb": 16, "max_at_once_mb": 16})
    server = receiver.scp._server
    assert isinstance(server, Server)
    with association(receiver.port) as first:
        _send_without_end(first, 10 << 20)
        # Sent is not yet read: who reads the byte too many, of the two, is refused.
        _wait_until(lambda: server.traffic.size_bytes >= 10 << 20)
        for _ in range(3):  # what an ended one had sent counts no more
            with association(receiver.port) as second:
                _send_without_end(second, 9 << 20)  # no message too large, but 19 MB are too much
                _wait_until(lambda assoc=second: not assoc.is_established)
        assert is_alive(receiver)
        assert first.is_established


@pytest.mark.parametrize(
    ("rows", "reason"), [(65_000, "too much under way at once"), (8, "too many requests at once")]
)
def test_what_waits_for_its_answer_is_under_way(start: Start, rows: int, reason: str) -> None:
    """A peer that sends on without reading answers fills memory with whole messages."""
    gated = GatedStore()
    receiver = start(store=gated, limits={"max_message_mb": 16, "max_at_once_mb": 16})

    def say(assoc: Any) -> Iterator[bytes]:
        whole = encoded(film(rows=rows))  # of 2.08 MB, or 1 KB
        for _ in range(30):
            send(assoc, whole)
        return iter(())

    line = refusal(receiver, say)
    assert line["reason"] == reason
    assert line["size_bytes"] < 17 << 20
    gated.go_on.set()
    for _ in range(3):  # what was waiting counts no more
        assert is_alive(receiver)


def _send_without_end(assoc: Any, size_bytes: int) -> None:
    """Fragments of a data set that are not the last (PS3.8 E.2)."""
    raw, piece = assoc.dul.socket.socket, bytes(60_000)
    pdv = struct.pack(">LBB", len(piece) + 2, assoc.accepted_contexts[0].context_id, 0x00) + piece
    pdu, sent = struct.pack(">BBL", 0x04, 0, len(pdv)) + pdv, 0
    with contextlib.suppress(OSError):
        while sent < size_bytes:
            raw.sendall(pdu)
            sent += len(pdu)


def test_a_message_in_pieces_without_end_is_cut_off_at_its_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole PDU now and then would keep any time-out of a PDU from coming."""
    passed_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s[0])
    for module in (transport, wire):
        monkeypatch.setattr(module, "time", clock)
    receiver = start(timeouts={"message_s": 60})
    server = receiver.scp._server
    assert isinstance(server, Server)
    with (
        structlog.testing.capture_logs() as log,
        association(receiver.port, within_s=10 * _LONG_S) as assoc,
    ):
        passed_s[0] += 70  # silence between messages is no message's time
        assert store(assoc, encoded(film())) == SUCCESS
        raw, piece = assoc.dul.socket.socket, pdu(assoc, 0x00, b"\0")
        for size_bytes in (len(piece), 2 * len(piece)):
            raw.sendall(piece)
            _wait_until(lambda size_bytes=size_bytes: server.traffic.size_bytes == size_bytes)
        passed_s[0] += 50
        raw.sendall(piece)
        _wait_until(lambda: server.traffic.size_bytes == 3 * len(piece))
        assert assoc.is_established
        passed_s[0] += 20
        raw.sendall(piece)
        _wait_until(lambda: not assoc.is_established)
    assert "message too slow" in [line.get("reason") for line in log]
    assert is_alive(receiver)


def test_the_limit_is_of_one_message_not_of_an_association(start: Start) -> None:
    receiver = start(limits={"max_message_mb": 16, "max_at_once_mb": 16})
    with association(receiver.port) as assoc:
        for n in range(10):
            name = f"1.2.3.{n}"
            whole = encoded(film(name, rows=65_000))  # 2.08 MB
            assert store(assoc, whole, sop_instance_uid=name) == SUCCESS


def test_a_request_that_crawls_is_cut_off(start: Start) -> None:
    """A byte now and then would keep any time-out of a single read from coming."""
    receiver = start(timeouts={"association_s": 1})
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=_LONG_S) as connection:
        connection.sendall(struct.pack(">BBL", 0x01, 0, 2000))
        said = _crawl(connection)
    assert time.monotonic() - began < 15
    assert said in (b"", b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00")
    _wait_until(lambda: _associates(receiver))  # for which a busy machine may take longer, too


def _crawl(connection: socket.socket) -> bytes:
    """What the node says while a byte comes every 0.2 s."""
    stop = threading.Event()

    def feed() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.2):
                connection.sendall(b"\0")

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""
    finally:
        stop.set()
        feeder.join(_LONG_S)


def test_one_address_may_not_take_every_association(start: Start) -> None:
    receiver = start(max_associations=10, max_associations_per_address=2)
    port = receiver.port
    with association(port), association(port), association(port) as third:
        assert rejection_of(third) == (2, 3, 2)
    _wait_until(lambda: _associates(receiver))  # a release is answered before it is counted


def test_one_address_may_not_take_every_connection(start: Start) -> None:
    receiver = start(max_associations_per_address=1, timeouts={"association_s": 60})
    server, address = receiver.scp._server, ("127.0.0.1", receiver.port)
    assert server is not None
    # 1 association and 64 that negotiate. One that is being handed over is counted twice, or not.
    silent = [socket.create_connection(address, 10) for _ in range(65)]
    try:
        _wait_until(lambda: len(server.active_associations) + len(_closed(silent)) == 65)
        silent.append(socket.create_connection(address, 10))
        _wait_until(lambda: _closed(silent))
        assert len(_closed(silent)) < 33
    finally:
        for connection in silent:
            connection.close()
    _wait_until(lambda: _associates(receiver))


def _associates(receiver: Receiver) -> bool:
    with association(receiver.port) as assoc:
        return bool(assoc.is_established)


def _closed(silent: list[socket.socket]) -> list[socket.socket]:
    """Those that the node has hung up on: it says nothing to the others."""
    return select.select(silent, [], [], 0)[0]


def _wait_until(holds: Any) -> None:
    deadline, beat = time.monotonic() + _LONG_S, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        beat.wait(0.01)
