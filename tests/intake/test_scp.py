"""What a sender is told by the running receiver, and what then lies on the disk."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import uid
from pynetdicom.acse import ACSE
from structlog.processors import JSONRenderer
from structlog.testing import capture_logs

from dicom_node import logs
from dicom_node.intake.admission import Senders
from dicom_node.intake.scp import TRANSFER_SYNTAXES
from storage.errors import StoreUnavailableError
from storage.jobs import NewReceived, ObjectRef, Received
from storage.memory import MemoryJobStore
from storage.objects import MemoryObjectStore
from tests.intake.conftest import NOW, GatedStore, Receiver, Start
from tests.intake.films import CLASS, INSTANCE, data_set_of, encoded, film
from tests.intake.sender import Told, association, rejection_of, store

SUCCESS = Told(status=0x0000, comment="")
EXPLICIT, IMPLICIT = uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian
VERIFICATION = "1.2.840.10008.1.1"


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_the_data_set_is_on_the_disk_byte_for_byte(receiver: Receiver, syntax: uid.UID) -> None:
    sent = encoded(film(), syntax)
    with association(receiver.port, syntax) as assoc:
        assert store(assoc, sent) == SUCCESS
    (row,) = receiver.store.received(10)
    path = receiver.folder / row.object.name
    assert data_set_of(path.read_bytes()) == sent
    assert row.transfer_syntax_uid == syntax
    assert (row.sop_class_uid, row.sop_instance_uid) == (CLASS, INSTANCE)
    assert (row.calling_ae_title, row.address) == ("SENDER", "127.0.0.1")
    assert row.received_at == NOW
    assert row.object.name == f"received/{row.object.digest[:2]}/{row.object.digest}.dcm"


def test_a_resend_is_the_same_file_and_its_senders_row(receiver: Receiver) -> None:
    for calling in ("FIRST", "SECOND"):
        with association(receiver.port, calling=calling) as assoc:
            assert store(assoc, encoded(film())) == SUCCESS
            assert store(assoc, encoded(film())) == SUCCESS
    assert [row.calling_ae_title for row in receiver.store.received(10)] == ["SECOND", "FIRST"]
    assert len(list(receiver.folder.rglob("*.dcm"))) == 1


def test_several_films_come_by_one_association(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        for n in range(5):
            name = f"1.2.3.{n}"
            assert store(assoc, encoded(film(name)), sop_instance_uid=name) == SUCCESS
    assert [row.sop_instance_uid for row in receiver.store.received(10)] == [
        f"1.2.3.{n}" for n in (4, 3, 2, 1, 0)
    ]


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([uid.JPEGBaseline8Bit, uid.JPEG2000Lossless], uid.JPEG2000Lossless),
        ([uid.JPEG2000, uid.RLELossless], uid.RLELossless),
        ([uid.ExplicitVRBigEndian, IMPLICIT], IMPLICIT),
    ],
)
def test_our_order_of_transfer_syntaxes_decides(
    receiver: Receiver, proposed: list[str], chosen: str
) -> None:
    with association(receiver.port, *proposed) as assoc:
        assert [c.transfer_syntax for c in assoc.accepted_contexts] == [[chosen]]


def test_a_context_without_a_known_transfer_syntax_is_not_accepted(receiver: Receiver) -> None:
    with association(receiver.port, uid.MPEG2MPML, sop_class_uid=CLASS) as assoc:
        assert [c.result for c in assoc.rejected_contexts] == [4]  # PS3.8 table 9-18


@pytest.mark.parametrize("keep_back", [1, 200])
def test_a_data_set_cut_short_is_not_understood(receiver: Receiver, keep_back: int) -> None:
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(film())[:-keep_back])
    assert told is not None
    assert told.status == 0xC000
    assert 0 < len(told.comment) <= 64
    assert "Doe" not in told.comment
    assert receiver.store.received(10) == []
    assert list(receiver.folder.rglob("*.dcm")) == []


def test_after_a_refusal_the_association_goes_on(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        assert store(assoc, b"no data set at all") is not None
        assert store(assoc, encoded(film())) == SUCCESS


def test_a_request_without_data_set_is_not_understood(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        told = store(assoc, None)
    assert told is None or told.status == 0xC000
    assert receiver.store.received(10) == []


def test_a_data_set_of_another_instance_does_not_match(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(film("1.2.3")), sop_instance_uid="1.2.4")
    assert told is not None
    assert told.status == 0xA900
    assert told.comment == "SOP Instance UID is not the request's"


def test_a_data_set_of_another_class_does_not_match(receiver: Receiver) -> None:
    other = film(sop_class_uid=uid.SecondaryCaptureImageStorage)
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(other))
    assert told is not None
    assert told.status == 0xA900


def test_a_uid_that_is_none_is_refused(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(film()), sop_instance_uid="../../etc/passwd")
    assert told is not None
    assert told.status == 0xC000


def test_a_full_disk_is_out_of_resources(start: Start) -> None:
    receiver = start(objects=MemoryObjectStore(None, capacity_bytes=100))  # type: ignore[arg-type]
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(film()))
    assert told is not None
    assert told.status == 0xA700
    assert receiver.store.received(10) == []


class _AwayStore(MemoryJobStore):
    """A database that cannot be reached, or a bug in us."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self._fault = fault

    def receive(self, new: NewReceived) -> Received:  # noqa: ARG002
        raise self._fault


def test_a_database_that_is_away_is_out_of_resources(start: Start) -> None:
    receiver = start(store=_AwayStore(StoreUnavailableError("locked")))
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(film()))
    assert told is not None
    assert told.status == 0xA700


@pytest.mark.parametrize("fault", [MemoryError(), OSError(24, "Too many open files")])
def test_a_receiver_short_of_memory_or_handles_is_the_moments(
    start: Start, fault: Exception
) -> None:
    receiver = start(store=_AwayStore(fault))
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(film()))
    assert told == Told(status=0xA700, comment="out of resources, try again later")


def test_a_fault_of_ours_is_told_and_the_node_lives(start: Start) -> None:
    receiver = start(store=_AwayStore(ZeroDivisionError("Doe^Jane")))
    with association(receiver.port) as assoc:
        for _ in range(2):
            told = store(assoc, encoded(film()))
            assert told == Told(status=0x0110, comment="internal error, see the node's log")


@pytest.mark.parametrize(
    ("fault", "status"),
    [(None, 0x0000), (StoreUnavailableError("locked"), 0xA700), (ZeroDivisionError(), 0x0110)],
)
@pytest.mark.usefixtures("own_log")
def test_what_a_sender_is_told_does_not_depend_on_the_log(
    start: Start, monkeypatch: pytest.MonkeyPatch, fault: Exception | None, status: int
) -> None:
    """Which may want memory too: a film that is kept would be refused for good (C211)."""

    def poor(*_: object) -> None:
        raise MemoryError

    logs.configure("INFO", "json")
    monkeypatch.setattr(JSONRenderer, "__call__", poor)
    receiver = start(store=None if fault is None else _AwayStore(fault))
    with association(receiver.port) as assoc:
        told = store(assoc, encoded(film()))
    assert told is not None
    assert told.status == status


def test_an_unknown_calling_ae_is_rejected_for_good(start: Start) -> None:
    receiver = start(accept=[{"ae_title": "CR1"}])
    with association(receiver.port, calling="CR2") as assoc:
        assert rejection_of(assoc) == (1, 1, 3)
    with association(receiver.port, calling="CR1") as assoc:
        assert assoc.is_established


def test_a_known_ae_at_another_address_is_rejected(start: Start) -> None:
    receiver = start(accept=[{"ae_title": "CR1", "host": "10.0.0.5"}])
    with association(receiver.port, calling="CR1") as assoc:
        assert rejection_of(assoc) == (1, 1, 3)


def test_any_ae_of_a_network_may_send(start: Start) -> None:
    receiver = start(accept=[{"ae_title": "*", "host": "127.0.0.0/8"}])
    with association(receiver.port, calling="WHOEVER") as assoc:
        assert assoc.is_established


def test_another_called_ae_is_rejected_only_where_it_is_looked_at(start: Start) -> None:
    with association(start().port, called="OTHER") as assoc:
        assert assoc.is_established
    with association(start(check_called_ae_title=True).port, called="OTHER") as assoc:
        assert rejection_of(assoc) == (1, 1, 7)


def test_one_association_too_many_is_told_to_try_again(start: Start) -> None:
    receiver = start(max_associations=2)
    port = receiver.port
    with association(port), association(port), association(port) as third:
        assert rejection_of(third) == (2, 3, 2)

    def is_established() -> bool:
        with association(port) as later:
            return bool(later.is_established)

    _wait_until(is_established)  # a release is answered before it is counted


def test_silent_connections_take_no_association_from_a_sender(start: Start) -> None:
    receiver = start(max_associations=1)
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(5)]
    try:
        with association(receiver.port) as assoc:
            assert store(assoc, encoded(film())) == SUCCESS
    finally:
        for connection in silent:
            connection.close()


@pytest.mark.parametrize("said", [b"", b"\x01\x00\x00\x00\x01\x00\x00\x01"])
def test_a_peer_that_falls_silent_while_negotiating_is_hung_up_on(
    start: Start, said: bytes
) -> None:
    receiver = start(timeouts={"association_s": 0.3})
    with (
        socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection,
        contextlib.suppress(ConnectionResetError, BrokenPipeError),  # before it was said
    ):
        connection.sendall(said)
        assert connection.recv(100) in (b"", b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00")


def test_a_sender_may_be_idle_for_longer_than_negotiation_may_take(start: Start) -> None:
    receiver = start(timeouts={"association_s": 0.2, "idle_s": 60})
    made: list[Any] = []
    with contextlib.ExitStack() as stack:

        def is_established() -> bool:
            made.append(stack.enter_context(association(receiver.port)))
            return bool(made[-1].is_established)

        _wait_until(is_established)  # for which a machine with much to do may take longer
        threading.Event().wait(0.8)  # the time itself is what is tested
        assert store(made[-1], encoded(film())) == SUCCESS


def test_echo_is_answered(receiver: Receiver) -> None:
    with association(receiver.port, sop_class_uid=VERIFICATION) as assoc:
        assert assoc.send_c_echo().Status == 0x0000


def test_one_port_is_not_listened_at_twice(receiver: Receiver, start: Start) -> None:
    with pytest.raises(OSError, match="in use"):
        start(port=receiver.port)


def test_stopping_lets_a_running_store_finish(start: Start) -> None:
    gated = GatedStore()
    receiver = start(store=gated)
    told: list[Told | None] = []
    with association(receiver.port) as assoc, association(receiver.port) as idle:
        sending = threading.Thread(target=lambda: told.append(store(assoc, encoded(film()))))
        sending.start()
        assert gated.begun.wait(30)
        stopping = threading.Thread(target=receiver.scp.stop)
        stopping.start()
        _wait_until(lambda: idle.is_aborted)  # others are ended meanwhile
        assert stopping.is_alive()
        gated.go_on.set()
        sending.join(30)
        stopping.join(30)
    assert told == [SUCCESS]
    assert not stopping.is_alive()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", idle.acceptor.address_info.port), timeout=5)


def test_stopping_does_not_outlast_its_grace(start: Start) -> None:
    gated = GatedStore()
    receiver = start(store=gated, timeouts={"stop_grace_s": 0.2})
    told: list[Told | None] = []
    with association(receiver.port) as assoc:
        sending = threading.Thread(target=lambda: told.append(store(assoc, encoded(film()))))
        sending.start()
        assert gated.begun.wait(30)
        receiver.scp.stop()
        gated.go_on.set()
        sending.join(30)
    assert told == [None]  # the sender was not told success


def test_a_film_half_sent_when_the_connection_breaks_leaves_nothing(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        raw = assoc.dul.socket.socket
        raw.sendall(b"\x04\x00\x00\x00\x10\x00half")
        raw.shutdown(socket.SHUT_RDWR)
        _wait_until(lambda: not assoc.is_established)
    with association(receiver.port) as assoc:
        assert store(assoc, encoded(film())) == SUCCESS
    assert len(list(receiver.folder.rglob("*"))) == 4  # its mark, received/, its folder, the film


def _wait_until(holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 30
    beat = threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        beat.wait(0.01)


def test_the_reference_is_of_the_whole_file(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        store(assoc, encoded(film()))
    (row,) = receiver.store.received(1)
    assert isinstance(row.object, ObjectRef)
    assert (receiver.folder / row.object.name).stat().st_size == row.object.size_bytes
    assert data_set_of(receiver.objects.read(row.object)) == encoded(film())


def test_a_sender_that_cannot_be_judged_is_told_to_come_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a handler raises, pynetdicom goes on, and would accept the association."""
    receiver = start(accept=[{"ae_title": "CR1"}])

    def nothing(*_: object) -> bool:
        raise OSError("No space left on device")

    monkeypatch.setattr(Senders, "allow", nothing)
    with capture_logs() as said, association(receiver.port) as assoc:
        assert rejection_of(assoc) == (2, 3, 1)
        late = time.monotonic() + 10  # it is said after it is done
        while not said or said[-1]["event"] != "association rejected":
            assert time.monotonic() < late
            time.sleep(0.01)
    assert said[-1]["reason"] == "could not be judged, see above"


def test_who_cannot_be_told_that_it_is_rejected_is_cut_off(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = start(accept=[{"ae_title": "CR1"}])

    def poor(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ACSE, "send_reject", poor)
        with association(receiver.port, calling="EVIL") as assoc:
            assert not assoc.is_established
    with association(receiver.port, calling="CR1") as assoc:
        assert store(assoc, encoded(film())) == SUCCESS


@pytest.mark.parametrize("broken", [True, False])
def test_who_is_rejected_is_so_though_nothing_can_be_said_of_it(
    start: Start, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    receiver = start(accept=[{"ae_title": "CR1"}])

    def nothing(*_: object, **__: object) -> None:
        raise MemoryError

    if broken:
        monkeypatch.setattr(Senders, "allow", nothing)
    mute = SimpleNamespace(warning=nothing, error=nothing, exception=nothing, info=nothing)
    with monkeypatch.context() as patch:
        patch.setattr("dicom_node.intake.scp._log", mute)
        with association(receiver.port, calling="EVIL") as assoc:
            assert rejection_of(assoc) == ((2, 3, 1) if broken else (1, 1, 3))
