"""AE titles as old devices write them."""

import struct
from typing import Any

import pytest
import structlog.testing
from pynetdicom.transport import AssociationSocket

from tests.intake.conftest import Receiver, Start
from tests.intake.films import encoded, film
from tests.intake.sender import Told, association, rejection_of, store

SUCCESS = Told(status=0x0000, comment="")
_CALLED, _CALLING = slice(10, 26), slice(26, 42)
"""Of an A-ASSOCIATE-RQ PDU (PS3.8 table 9-11)."""


@pytest.fixture
def titled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From then on association requests have these bytes there."""
    send = AssociationSocket.send

    def write(field: slice, title: bytes) -> None:
        def changed(socket: AssociationSocket, pdu: bytes) -> None:
            whole = bytearray(pdu)
            if whole[0] == 1:
                whole[field] = struct.pack("16s", title)  # which pads with NULs
            send(socket, bytes(whole))

        monkeypatch.setattr(AssociationSocket, "send", changed)

    return write


@pytest.mark.parametrize("title", [b"CR1", b"CR1  ", b"\0CR1", b"CR1             "])
def test_a_title_that_is_padded_with_nuls_is_that_title(
    start: Start, titled: Any, title: bytes
) -> None:
    receiver = start(accept=[{"ae_title": "CR1"}])
    titled(_CALLING, title)
    with association(receiver.port) as assoc:
        assert store(assoc, encoded(film())) == SUCCESS
    (received,) = receiver.store.received(10)
    assert received.calling_ae_title == "CR1"


def test_so_is_the_title_that_it_calls(start: Start, titled: Any) -> None:
    receiver = start(check_called_ae_title=True)
    titled(_CALLED, b"VALD")
    with association(receiver.port) as assoc:
        assert store(assoc, encoded(film())) == SUCCESS


@pytest.mark.parametrize(
    ("title", "written"),
    [
        (b"R\xd6NTGEN1", "R\\xd6NTGEN1"),
        (b"CR1\0\xfe", "CR1\0\\xfe"),
        (b"CR\\1", "CR\\1"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize(("field", "diagnostic"), [(_CALLING, 3), (_CALLED, 7)])
def test_a_title_that_is_none_is_rejected_and_the_log_says_so(
    receiver: Receiver,
    titled: Any,
    title: bytes,
    written: str,
    field: slice,
    diagnostic: int,
) -> None:
    titled(field, title)
    with structlog.testing.capture_logs() as log, association(receiver.port) as assoc:
        assert rejection_of(assoc) == (1, 1, diagnostic)
    (line,) = [line for line in log if line["event"] == "association rejected"]
    assert (line["log_level"], line["ae_title"]) == ("warning", written)
    assert "PS3.5 6.2" in line["reason"]
