"""What a peer sends, read within a time for all of it, and command sets bounded in size.

A time-out of each read has no end, and pynetdicom reads command sets of any size.
"""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

ABORT = bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 6))
"""A-ABORT by the service provider: invalid PDU parameter value (PS3.8 table 9-26)."""
_PDV_HEADER = struct.Struct(">LBB")
"""Length of what follows it, context, message control header (PS3.8 9.3.5.1, E.2)."""
PDV_HEADER_BYTES = _PDV_HEADER.size

_CHUNK_BYTES = 1 << 16
A_ASSOCIATE_RQ, _P_DATA_TF = 1, 4
_PDU_TYPES = range(1, 8)  # PS3.8 9.3.2 to 9.3.8
_MOST_COMMAND_BYTES = 1 << 14
"""A command set has some hundred (PS3.7 9.3, 10.3). pynetdicom makes an object of each element of
it: 4 MB of empty ones would take 140 MB of memory and ten seconds."""


def read(connection: socket.socket, nr_bytes: int, until: float | None) -> bytearray:
    """So many bytes, or fewer where the peer has hung up; `until` is of `time.monotonic`.

    None is no other time than the socket's own, for each piece. That is as before in the end.

    Raises:
        OSError: they did not all come in time, or the connection is broken.
    """
    patience_s = connection.gettimeout()
    whole = bytearray()
    try:
        while len(whole) < nr_bytes:
            if until is not None:
                connection.settimeout(max(0.001, until - time.monotonic()))
            piece = connection.recv(min(_CHUNK_BYTES, nr_bytes - len(whole)))
            if not piece:
                break
            whole += piece
    finally:
        with suppress(OSError):  # closed meanwhile
            connection.settimeout(patience_s)
    return whole


class CommandSet:
    """The command set of the message that comes, counted as pynetdicom reads PDU by PDU."""

    def __init__(self) -> None:
        self.pdu_type: int | None = None
        """Of the PDU whose header was read, and whose body is read next."""
        self.begin()

    def begin(self) -> None:
        """What is read from now on is of another message."""
        self.size_bytes, self._has_ended = 0, False

    def takes(self, piece: bytes | bytearray) -> bool:
        """Whether it is neither too large with this, nor goes on behind its end.

        pynetdicom reads a PDU's header, then its body; of one of unknown type the header only.
        """
        if self.pdu_type is None:
            self.pdu_type = piece[0] if piece and piece[0] in _PDU_TYPES else None
            return True
        is_data, self.pdu_type = self.pdu_type == _P_DATA_TF, None
        return not is_data or all(map(self._takes, _command_fragments(piece)))

    def _takes(self, fragment: tuple[int, bool]) -> bool:
        size_bytes, is_last = fragment
        self.size_bytes += size_bytes
        holds = not self._has_ended and self.size_bytes <= _MOST_COMMAND_BYTES
        self._has_ended = is_last
        return holds


def _command_fragments(body: bytes | bytearray) -> Iterator[tuple[int, bool]]:
    """Of a P-DATA-TF PDU, each fragment of a command set: its bytes, and whether it is the last."""
    at = 0
    while at + _PDV_HEADER.size <= len(body):
        length, _, control = _PDV_HEADER.unpack_from(body, at)
        if control & 1:
            yield length - 2, bool(control & 2)
        at += 4 + length
