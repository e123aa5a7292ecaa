"""What a peer sends, read within a time for all of it: a time-out of each read has no end."""

import socket
import time
from contextlib import suppress

_CHUNK_BYTES = 1 << 16


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
