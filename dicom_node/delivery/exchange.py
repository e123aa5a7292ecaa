"""Requests of ours on an association, one at a time, and what a destination answers them.

pynetdicom takes the next message of any kind for the answer: one that is said twice would be taken
for that to the next request, and a result noted as delivered that was refused. And it reads
answers of any size.
"""

import time
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_FIND

from dicom_node import wire

_log = structlog.get_logger()

PENDING = (0xFF00, 0xFF01)
"""More answers follow (PS3.4 table C.4-1); of what we ask, to C-FIND alone."""
_MOST_PDU_BYTES = 1 << 20
"""Of answers; we ask for PDUs of 16 KiB (PS3.8 D.1), and some send an item beyond it."""
_MOST_BYTES = 8 << 20
"""Of all that comes after one request, as of an answer by DICOMweb: what is asked about takes some
KB, and a destination that heeds no UID may tell of 10,000 studies."""


class Exchange:
    """Lets an association take for an answer only what is one to the request that is open.

    That is: of its kind, to its Message ID and, where it names an instance, of that one (PS3.7
    9.1.1.1, 9.3.1.2, 10.1.4.1). Where anything else comes the association is aborted: while an
    answer is waited for at once, else before anything more is asked. And answers are bounded, in
    size and in time: beyond that it is aborted, too.
    """

    def __init__(self, assoc: Any, ae_title: str, within_s: float) -> None:
        """For an association whose connection is just open."""
        self._assoc, self._ae_title, self._within_s = assoc, ae_title, within_s
        self._size_bytes, self._command = 0, wire.CommandSet()
        self._connection = assoc.dul.socket.socket
        assoc.dul.socket.recv = self._recv
        assoc.bind(evt.EVT_DIMSE_RECV, lambda _: self._command.begin())
        self._open: Any = None
        """The request that is not answered yet, as pynetdicom's primitive."""
        self._is_broken = False
        self._send, self._get = assoc.dimse.send_msg, assoc.dimse.get_msg
        assoc.dimse.send_msg, assoc.dimse.get_msg = self._sent, self._got

    def _sent(self, primitive: Any, context_id: int) -> None:
        """A request of ours goes out, or our answer to a report.

        Raises:
            RuntimeError: something has come that nobody asked for; the association is aborted.
        """
        if primitive.MessageIDBeingRespondedTo is None:
            self._judge(self._assoc.dimse.peek_msg()[1])
            if self._is_broken:
                self._assoc.abort()
                raise RuntimeError("the association has ended")
            self._open, self._size_bytes = primitive, 0
        self._send(primitive, context_id)

    def _got(self, block: bool = False) -> tuple[Any, Any]:
        """As pynetdicom's own: context and message, or None of both where no answer came.

        Whoever waits for one (`block`) aborts then by itself; the association's own thread does
        not wait, and looks for requests.
        """
        context_id, message = self._get(block)
        self._judge(message)
        if message is None or self._is_broken:
            return None, None
        if message.Status not in PENDING:
            self._open = None
        return context_id, message

    def _recv(self, nr_bytes: int) -> bytearray:
        """A PDU's header or its body, all of it in time.

        Raises:
            OSError: it was not, or is longer than what we let a destination send.
        """
        self._size_bytes += nr_bytes
        if nr_bytes > _MOST_PDU_BYTES:
            self._refuse("PDU too large", nr_bytes)
        if self._size_bytes > _MOST_BYTES:
            self._refuse("answer too large", self._size_bytes)
        piece = wire.read(self._connection, nr_bytes, time.monotonic() + self._within_s)
        if not self._command.takes(piece):
            self._refuse("command set too large", self._command.size_bytes)
        return piece

    def _refuse(self, reason: str, size_bytes: int) -> None:
        _log.warning(
            "association ended", reason=reason, size_bytes=size_bytes, ae_title=self._ae_title
        )
        with suppress(OSError):
            self._connection.sendall(wire.ABORT)
        raise OSError(reason)

    def _judge(self, message: Any) -> None:
        """The association is broken where this came, unless it is an answer."""
        fault = "" if message is None or self._is_broken else _fault(self._open, message)
        if fault:
            self._is_broken = True
            _log.warning("association ended", reason=fault, ae_title=self._ae_title)


def _fault(request: Any, message: Any) -> str:
    """Why the message is no answer to the request; empty where it is one. Never its values."""
    if request is None:
        return f"{message.msg_type} came, and nothing was asked"
    if type(message) is not type(request) or not message.is_valid_response:
        return f"{message.msg_type} came, and is no answer to {request.msg_type}"
    if message.MessageIDBeingRespondedTo != request.MessageID:
        answered = message.MessageIDBeingRespondedTo
        return f"an answer to message {answered} came, and {request.MessageID} was to be answered"
    if message.Status in PENDING and not isinstance(request, C_FIND):
        return f"{request.msg_type} was answered with {message.Status:04X}, pending"
    if _instance(message) not in ("", _instance(request)):
        return f"{request.msg_type} was answered for another instance"
    return ""


def _instance(primitive: Any) -> str:
    """The instance that a request is about, or an answer says it is; "" where there is none."""
    for keyword in ("AffectedSOPInstanceUID", "RequestedSOPInstanceUID"):
        if uid := getattr(primitive, keyword, None):
            return str(uid).strip(" \0")
    return ""
