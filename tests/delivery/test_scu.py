"""What is sent is the kept file's data set; what peers do is understood."""

import builtins
import errno
import io
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, dimse_messages
from pynetdicom.association import Association

from dicom_node.config import DeliveryTimeouts, Destination
from dicom_node.delivery.outcome import Fate
from dicom_node.delivery.scu import Scu
from tests.delivery import pacs, slow
from tests.delivery.parcels import CAPTURE, REPORT, data_set, part10
from tests.peers import tools

STORESCP = Path("/usr/bin/storescp")
SCU = Scu(
    ae_title="VALD",
    implementation_class_uid="1.2.3",
    timeouts=DeliveryTimeouts(connect_s=5, association_s=5, response_s=10),
)
HASTY = Scu(
    ae_title="VALD",
    implementation_class_uid="1.2.3",
    timeouts=DeliveryTimeouts(connect_s=0.5, association_s=0.5, response_s=0.5),
)
SOON_TIRED = Scu(
    ae_title="VALD",
    implementation_class_uid="1.2.3",
    timeouts=DeliveryTimeouts(connect_s=30, association_s=30, response_s=0.5),
)
"""Of a peer with which it has an association, however long a busy machine takes for that."""
PATIENT = Scu(
    ae_title="VALD",
    implementation_class_uid="1.2.3",
    timeouts=DeliveryTimeouts(connect_s=60, association_s=60, response_s=60),
)


def at(port: int, ae_title: str = "PACS") -> Destination:
    return Destination(ae_title=ae_title, host="127.0.0.1", port=port)


def files(folder: Path, *uids: str, sop_class: str = CAPTURE) -> list[Path]:
    paths = [folder / f"{uid}.dcm" for uid in uids]
    for path, uid in zip(paths, uids, strict=True):
        path.write_bytes(part10(uid, sop_class))
    return paths


def fates(scu: Scu, to: Destination, paths: list[Path], within_s: float = 60) -> list[Fate]:
    return [outcome.fate for outcome in scu.send(to, paths, within_s)]


def test_the_data_sets_arrive_byte_for_byte_by_one_association(tmp_path: Path) -> None:
    paths = [*files(tmp_path, "1.1", "1.2"), *files(tmp_path, "1.3", sop_class=REPORT)]
    with pacs.running() as peer:
        assert fates(SCU, at(peer.port), paths) == [Fate.DELIVERED] * 3
    assert peer.received == [
        ("1.1", data_set("1.1")),
        ("1.2", data_set("1.2")),
        ("1.3", data_set("1.3", REPORT)),
    ]
    assert peer.associations == 1


def test_a_name_is_looked_up(tmp_path: Path) -> None:
    with pacs.running() as peer:
        named = Destination(ae_title="PACS", host="localhost", port=peer.port)
        assert fates(SCU, named, files(tmp_path, "1.1")) == [Fate.DELIVERED]


def test_each_object_has_its_own_answer(tmp_path: Path) -> None:
    commented = Dataset()
    commented.Status, commented.ErrorComment = 0xA700, "disk full"
    with pacs.running() as peer:
        peer.answers = [0xB000, commented, 0xA900, 0xC000, 0x0000]
        said = SCU.send(at(peer.port), files(tmp_path, "1.1", "1.2", "1.3", "1.4", "1.5"), 60)
    assert [outcome.fate for outcome in said] == [
        Fate.DELIVERED,
        Fate.POSTPONED,
        Fate.REFUSED,
        Fate.REFUSED,
        Fate.DELIVERED,
    ]
    assert said[0].reason == "coercion of data elements (B000)"
    assert said[1].reason == "out of resources (A700): disk full"


@pytest.mark.parametrize("fault", [pacs.ABORT, pacs.HANG_UP])
def test_an_association_that_dies_leaves_the_rest_unsent(tmp_path: Path, fault: str) -> None:
    with pacs.running() as peer:
        peer.answers = [0x0000, fault]
        assert fates(SCU, at(peer.port), files(tmp_path, "1.1", "1.2", "1.3")) == [
            Fate.DELIVERED,
            Fate.POSTPONED,
            Fate.UNSENT,
        ]


def test_a_peer_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    with pacs.running() as peer:
        peer.answers = [pacs.SILENCE]
        began = time.monotonic()
        assert fates(SOON_TIRED, at(peer.port), files(tmp_path, "1.1", "1.2")) == [
            Fate.POSTPONED,
            Fate.UNSENT,
        ]
        assert len(peer.received) == 1
        assert time.monotonic() - began < 10


def test_a_peer_that_stops_reading_is_not_waited_for(tmp_path: Path) -> None:
    paths = files(tmp_path, "1.1", "1.2")
    with paths[0].open("ab") as large:  # more than the sockets between us hold
        large.write(b"\xfc\xff\xfc\xffOB\x00\x00\x00\x00\x00\x02" + bytes(1 << 25))
    with pacs.running(deaf=True) as peer:
        began = time.monotonic()
        assert fates(SOON_TIRED, at(peer.port), paths) == [Fate.POSTPONED, Fate.UNSENT]
        assert time.monotonic() - began < 10


def test_a_peer_that_accepts_no_association_is_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = HASTY.send(at(silent.getsockname()[1]), files(tmp_path, "1.1"), 60)
    assert (said[0].fate, said[0].reason) == (
        Fate.POSTPONED,
        "no answer to the association request",
    )


def test_a_peer_that_is_not_there_is_tried_again(tmp_path: Path, closed_port: int) -> None:
    said = SCU.send(at(closed_port), files(tmp_path, "1.1", "1.2"), 60)
    assert [(o.fate, o.reason) for o in said] == [(Fate.POSTPONED, "cannot connect")] * 2


def test_a_name_without_address_is_tried_again(tmp_path: Path) -> None:
    nowhere = Destination(ae_title="PACS", host="pacs.invalid", port=104)
    assert fates(SCU, nowhere, files(tmp_path, "1.1")) == [Fate.POSTPONED]


def test_a_peer_that_does_not_know_us_is_tried_slowly(tmp_path: Path) -> None:
    with pacs.running(knows="OTHER") as peer:
        said = SCU.send(at(peer.port), files(tmp_path, "1.1"), 60)
    assert said[0].fate is Fate.POSTPONED_SLOWLY
    assert "our AE title is not recognised" in said[0].reason


def test_a_peer_by_another_name_is_tried_slowly(tmp_path: Path) -> None:
    with pacs.running(called="OTHER") as peer:
        assert fates(SCU, at(peer.port), files(tmp_path, "1.1")) == [Fate.POSTPONED_SLOWLY]


def test_a_busy_peer_is_tried_again(tmp_path: Path) -> None:
    with pacs.running(most=1) as peer:
        peer.answers = [pacs.SILENCE]
        first = threading.Thread(target=fates, args=(SCU, at(peer.port), files(tmp_path, "1.1")))
        first.start()
        deadline = time.monotonic() + 30
        while not peer.received:
            assert time.monotonic() < deadline
            peer.done.wait(0.01)
        said = SCU.send(at(peer.port), files(tmp_path, "1.2"), 60)
        peer.done.set()
        first.join(30)
    assert (said[0].fate, said[0].reason) == (
        Fate.POSTPONED,
        "association rejected for now: too many associations",
    )


def test_a_class_that_is_not_taken_is_refused_and_the_others_arrive(tmp_path: Path) -> None:
    paths = [*files(tmp_path, "1.1", sop_class=REPORT), *files(tmp_path, "1.2")]
    with pacs.running(classes=[CAPTURE]) as peer:
        assert fates(SCU, at(peer.port), paths) == [Fate.REFUSED, Fate.DELIVERED]


def test_where_no_class_is_taken_all_are_refused(tmp_path: Path) -> None:
    with pacs.running(classes=[REPORT]) as peer:
        assert fates(SCU, at(peer.port), files(tmp_path, "1.1", "1.2")) == [Fate.REFUSED] * 2


def test_a_file_is_not_converted_for_a_peer(tmp_path: Path) -> None:
    with pacs.running(syntaxes=[ImplicitVRLittleEndian]) as peer:
        said = SCU.send(at(peer.port), files(tmp_path, "1.1"), 60)
    assert said[0].fate is Fate.REFUSED
    assert ExplicitVRLittleEndian in said[0].reason


def test_a_file_that_is_none_any_more_is_refused_alone(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"not DICOM")
    with pacs.running() as peer:
        assert fates(SCU, at(peer.port), [broken, *files(tmp_path, "1.1")]) == [
            Fate.REFUSED,
            Fate.DELIVERED,
        ]
    assert fates(SCU, at(1), [broken]) == [Fate.REFUSED]


def test_nothing_is_begun_after_the_time_is_up(tmp_path: Path) -> None:
    with pacs.running() as peer:
        assert fates(SCU, at(peer.port), files(tmp_path, "1.1", "1.2"), 0) == [Fate.UNSENT] * 2
    assert peer.received == []


def test_nothing_to_send_needs_no_association() -> None:
    assert SCU.send(at(1), [], 60) == []


@pytest.mark.peer
@pytest.mark.skipif(not STORESCP.exists(), reason="DCMTK is not installed")
def test_storescp_writes_what_was_kept(tmp_path: Path) -> None:
    port = tools.free_port()
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    command = [str(STORESCP), "+B", "-od", str(inbox), str(port)]  # +B: bytes as they come
    with subprocess.Popen(command) as server:
        try:
            _wait_for(port)
            assert fates(SCU, at(port), files(tmp_path, "1.1", "1.2")) == [Fate.DELIVERED] * 2
        finally:
            server.terminate()
    kept = sorted(inbox.iterdir())
    assert len(kept) == 2
    assert kept[0].read_bytes().endswith(data_set("1.1"))
    assert kept[1].read_bytes().endswith(data_set("1.2"))


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
        else:
            return


def test_a_file_that_cannot_be_opened_for_now_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files(tmp_path, "1.1", "1.2")
    open_file = builtins.open

    def open_few(name: object, *args: object, **kwargs: object) -> object:
        if str(name).endswith("1.1.dcm"):
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(name, *args, **kwargs)  # type: ignore[call-overload]  # as it came

    with pacs.running() as peer:
        monkeypatch.setattr(builtins, "open", open_few)
        monkeypatch.setattr(io, "open", open_few)
        said = SCU.send(at(peer.port), paths, 60)
        monkeypatch.undo()
    assert [(one.fate, one.status) for one in said] == [
        (Fate.POSTPONED, "FILE"),
        (Fate.DELIVERED, "0000"),
    ]


def test_what_is_wanting_in_mid_batch_costs_no_result_the_answer_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sent = Association.send_c_store, []

    def short(*args: Any) -> Dataset:
        sent.append(args)
        if len(sent) == 2:
            raise MemoryError
        return send(*args)

    monkeypatch.setattr(Association, "send_c_store", short)
    with pacs.running() as peer:
        said = SCU.send(at(peer.port), files(tmp_path, "1.1", "1.2", "1.3"), 60)
    assert [one.fate for one in said] == [Fate.DELIVERED, Fate.POSTPONED, Fate.DELIVERED]
    assert said[1].reason == "too little memory was free; free some, or give it more"
    assert [uid for uid, _ in peer.received] == ["1.1", "1.3"]


@pytest.fixture
def unreleased(monkeypatch: pytest.MonkeyPatch) -> list[Association]:
    """The associations for whose release there was no memory."""
    left: list[Association] = []

    def short(assoc: Association) -> None:
        left.append(assoc)
        raise MemoryError

    monkeypatch.setattr(Association, "release", short)
    return left


def test_an_association_that_cannot_be_released_costs_no_result_the_answer_it_has(
    tmp_path: Path, unreleased: list[Association]
) -> None:
    with pacs.running() as peer:
        assert fates(SCU, at(peer.port), files(tmp_path, "1.1")) == [Fate.DELIVERED]
    assert [assoc.dul.is_alive() for assoc in unreleased] == [False]


def test_an_association_without_a_thread_leaves_no_connection_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has two: the second is started when the peer has accepted."""
    start, left = Association.start, []

    def none(assoc: Association) -> None:
        if assoc.is_acceptor:  # the peer's own
            return start(assoc)
        left.append(assoc)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Association, "start", none)
    with pacs.running() as peer:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            SCU.send(at(peer.port), files(tmp_path, "1.1"), 60)
        assert peer.associations == 1
    assert [assoc.dul.is_alive() for assoc in left] == [False]


class _Broken:
    """A file of a disk that fails after so many reads."""

    def __init__(self, file: Any, reads: int) -> None:
        self._file, self._reads = file, reads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def seek(self, *args: int) -> int:
        return int(self._file.seek(*args))

    def read(self, *args: int) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            raise OSError(errno.EIO, "Input/output error")
        return bytes(self._file.read(*args))


def test_a_file_that_breaks_off_in_the_middle_is_not_ended_by_the_next_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command and first pieces were sent: the next object's would be taken for its rest."""
    paths = files(tmp_path, "1.1", "1.2")
    pixels = bytes(60_000)
    with paths[0].open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OB\0\0" + len(pixels).to_bytes(4, "little") + pixels)
    opened: list[Path] = []

    def broken(path: Path, mode: str) -> object:
        opened.append(path)
        file = path.open(mode)
        return _Broken(file, reads=2) if len(opened) == 1 else file

    with pacs.running() as peer:
        with monkeypatch.context() as disk:
            disk.setattr(dimse_messages, "open", broken, raising=False)
            said = SCU.send(at(peer.port), paths, 60)
        assert [one.fate for one in said] == [Fate.POSTPONED, Fate.UNSENT]
        assert peer.received == []
        assert fates(SCU, at(peer.port), paths[1:]) == [Fate.DELIVERED]
    assert peer.received == [("1.2", data_set("1.2"))]


@pytest.mark.parametrize("length", [1000, 0x7FFFFFFF])
def test_a_peer_that_sends_byte_by_byte_for_ever_is_not_waited_for(
    tmp_path: Path, length: int
) -> None:
    associate_ac = b"\x02\x00" + length.to_bytes(4, "big")
    with slow.trickling(associate_ac) as port:
        began = time.monotonic()
        assert fates(HASTY, at(port), files(tmp_path, "1.1")) == [Fate.POSTPONED]
        assert time.monotonic() - began < 10


def test_a_pdu_that_is_longer_than_any_is_not_begun(tmp_path: Path) -> None:
    with slow.trickling(b"\x02\x00\x7f\xff\xff\xff") as port:
        began = time.monotonic()
        assert fates(PATIENT, at(port), files(tmp_path, "1.1")) == [Fate.POSTPONED]
        assert time.monotonic() - began < 30  # of the 60 s that it has for an association


@pytest.mark.parametrize("most_bytes", [1, 5, 6])
def test_a_peer_whose_pdus_have_no_room_is_at_fault_not_the_file(
    tmp_path: Path, most_bytes: int
) -> None:
    reason = f"cannot connect: its maximum PDU length, {most_bytes}, leaves no room for data"
    with pacs.running(most_pdu_bytes=most_bytes) as peer:
        said = SCU.send(at(peer.port), files(tmp_path, "1.1", "1.2"), 60)
        assert SCU.echo(at(peer.port)) == reason
    assert {(one.fate, one.reason) for one in said} == {(Fate.POSTPONED, reason)}


@pytest.mark.parametrize("most_bytes", [0, 7, 100])
def test_any_pdu_with_room_for_data_will_do(tmp_path: Path, most_bytes: int) -> None:
    with pacs.running(most_pdu_bytes=most_bytes) as peer:
        assert fates(SCU, at(peer.port), files(tmp_path, "1.1")) == [Fate.DELIVERED]
    assert peer.received == [("1.1", data_set("1.1"))]


@pytest.mark.parametrize(("status", "there"), [(0x0122, True), (0x0211, True), (0x0110, False)])
def test_a_peer_that_does_not_know_verification_is_there(status: int, there: bool) -> None:
    with pacs.running() as peer:
        peer.echo_status = status
        assert (SCU.echo(at(peer.port)) == "") is there


def test_a_probe_that_cannot_be_released_leaves_no_connection_open(
    unreleased: list[Association],
) -> None:
    with pacs.running() as peer:
        assert SCU.echo(at(peer.port)) == ""
    assert [assoc.dul.is_alive() for assoc in unreleased] == [False]


def test_a_file_handle_that_is_wanting_here_says_nothing_of_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    paths = files(tmp_path, "1.1")
    monkeypatch.setattr(AE, "associate", none)
    (said,) = SCU.send(at(1), paths, 60)
    assert (said.fate, said.status) == (Fate.POSTPONED, "FILE")
    assert said.reason.startswith("no file handle was free")
