"""Encrypted associations: who is let in, who is not and why, and that silence holds up nobody."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from pynetdicom import AE

from dicom_node import tls
from dicom_node.config import DeliveryTimeouts, Destination, ServerTls, Tls
from dicom_node.delivery.outcome import Fate
from dicom_node.delivery.scu import Scu
from dicom_node.errors import ConfigError
from tests.delivery import pacs
from tests.delivery.parcels import part10
from tests.intake import certificates
from tests.intake.certificates import Pair
from tests.intake.conftest import Receiver, Start
from tests.peers import tools

VERIFICATION = "1.2.840.10008.1.1"
_LONG_S = 30.0


class Hospital:
    """Its authority, and a stranger's, with certificates that each signed."""

    def __init__(self, folder: Path) -> None:
        self.authority = certificates.authority(folder, "hospital")
        stranger = certificates.authority(folder, "stranger")
        self.node = certificates.signed(folder, "node", self.authority)
        self.sender = certificates.signed(folder, "sender", self.authority)
        self.expired = certificates.signed(folder, "expired", self.authority, days=-1)
        self.strangers = certificates.signed(folder, "stranger-sender", stranger)
        self.stranger = stranger

    def settings(self, mutual: bool = True) -> dict[str, str]:
        named = {"certificate": str(self.node.certificate), "key": str(self.node.key)}
        return {**named, "authority": str(self.authority.certificate)} if mutual else named

    def context(self, pair: Pair | None = None, authority: Pair | None = None) -> ssl.SSLContext:
        return tls.client(
            Tls(
                authority=str((authority or self.authority).certificate),
                certificate=None if pair is None else str(pair.certificate),
                key=None if pair is None else str(pair.key),
            )
        )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def mutual(start: Start, hospital: Hospital) -> Receiver:
    return start(tls=hospital.settings())


def echo(receiver: Receiver, context: ssl.SSLContext) -> int | None:
    """The status of a C-ECHO; None where there is no association."""
    ae = AE(ae_title="SENDER")
    ae.acse_timeout = ae.network_timeout = ae.connection_timeout = 10
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate(
        "127.0.0.1", receiver.port, ae_title="VALD", tls_args=(context, "127.0.0.1")
    )
    if not assoc.is_established:
        return None
    try:
        status: int | None = assoc.send_c_echo().get("Status")
        return status
    finally:
        assoc.release()


def refusal(receiver: Receiver, context: ssl.SSLContext) -> dict[str, Any]:
    """What the log says of a sender that gets no association."""
    with structlog.testing.capture_logs() as log:
        assert echo(receiver, context) is None
        tools.wait_until(lambda: bool(_refusals(log)), _LONG_S, "the log")
    return _refusals(log)[0]


def _refusals(log: list[Any]) -> list[dict[str, Any]]:
    return [dict(line) for line in log if line["event"] == "TLS refused"]


def test_a_sender_with_a_certificate_of_the_hospital_is_let_in(
    mutual: Receiver, hospital: Hospital
) -> None:
    assert echo(mutual, hospital.context(hospital.sender)) == 0x0000


def test_without_an_authority_any_sender_is_let_in(start: Start, hospital: Hospital) -> None:
    receiver = start(tls=hospital.settings(mutual=False))
    assert echo(receiver, hospital.context()) == 0x0000


def test_a_sender_of_another_authority_is_refused_and_the_log_says_why(
    mutual: Receiver, hospital: Hospital
) -> None:
    line = refusal(mutual, hospital.context(hospital.strangers))
    assert line["address"] == "127.0.0.1"
    assert line["reason"].startswith("its certificate is refused: ")
    assert "issuer" in line["reason"] or "self-signed" in line["reason"]


def test_an_expired_certificate_is_refused_and_the_log_says_so(
    mutual: Receiver, hospital: Hospital
) -> None:
    line = refusal(mutual, hospital.context(hospital.expired))
    assert line["reason"] == "its certificate is refused: certificate has expired"


def test_a_sender_without_a_certificate_is_refused_and_the_log_says_so(
    mutual: Receiver, hospital: Hospital
) -> None:
    line = refusal(mutual, hospital.context())
    assert line["reason"] == "peer did not return a certificate"


def test_a_sender_that_does_not_know_our_authority_says_so_in_our_log(
    mutual: Receiver, hospital: Hospital
) -> None:
    line = refusal(mutual, hospital.context(hospital.sender, authority=hospital.stranger))
    assert "unknown ca" in line["reason"]


def test_a_sender_that_speaks_plainly_is_refused(mutual: Receiver) -> None:
    ae = AE(ae_title="SENDER")
    ae.acse_timeout = ae.network_timeout = 10
    ae.add_requested_context(VERIFICATION)
    assert not ae.associate("127.0.0.1", mutual.port).is_established


def test_what_is_older_than_tls_1_2_is_refused(mutual: Receiver, hospital: Hospital) -> None:
    old = hospital.context(hospital.sender)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")  # without which the client has none, and says nothing
    assert refusal(mutual, old)["reason"] == "unsupported protocol"


def test_only_what_bcp_195_recommends_is_offered_and_taken(hospital: Hospital) -> None:
    for context in (
        tls.server(ServerTls.model_validate(hospital.settings())),
        hospital.context(hospital.sender),
    ):
        names = {cipher["name"] for cipher in context.get_ciphers()}
        assert {name for name in names if not name.startswith(("ECDHE-", "TLS_"))} == set()
        assert {name for name in names if "GCM" not in name and "CHACHA20" not in name} == set()


@contextlib.contextmanager
def silent_clients(receiver: Receiver) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", receiver.port)
        yield [stack.enter_context(socket.create_connection(address, _LONG_S)) for _ in range(5)]


def test_silent_clients_hold_up_no_sender(start: Start, hospital: Hospital) -> None:
    receiver = start(tls=hospital.settings(), timeouts={"association_s": 300})
    with silent_clients(receiver):
        assert echo(receiver, hospital.context(hospital.sender)) == 0x0000


def test_silent_clients_are_cut_off(start: Start, hospital: Hospital) -> None:
    receiver = start(tls=hospital.settings(), timeouts={"association_s": 1})
    with silent_clients(receiver) as silent:
        assert [connection.recv(1) for connection in silent] == [b""] * 5


def test_a_handshake_that_crawls_is_cut_off(start: Start, hospital: Hospital) -> None:
    receiver = start(tls=hospital.settings(), timeouts={"association_s": 1})
    pause = threading.Event()
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as crawling:
        crawling.sendall(b"\x16\x03\x01\x02\x00")  # a record of 512 bytes

        def crawl() -> None:
            while not pause.wait(0.2):
                try:
                    crawling.sendall(b"\x01")
                except OSError:
                    return

        thread = threading.Thread(target=crawl, daemon=True)
        thread.start()
        crawling.settimeout(_LONG_S)
        with contextlib.suppress(ConnectionResetError):  # cut off all the same
            assert crawling.recv(100) in (b"", b"\x15\x03\x01\x00\x02\x02\x32")
        pause.set()
        thread.join(_LONG_S)


def test_a_file_that_is_no_certificate_is_told_at_the_start(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"wrong\.pem"):
        tls.server(ServerTls(certificate=str(wrong), key=str(wrong)))


@pytest.fixture
def encrypted(hospital: Hospital) -> Iterator[pacs.Pacs]:
    """A PACS that wants our certificate."""
    with pacs.running(tls=tls.server(ServerTls.model_validate(hospital.settings()))) as peer:
        yield peer


def send(peer: pacs.Pacs, file: Path, settings: Tls) -> tuple[Fate, str]:
    """To the encrypted PACS."""
    there = Destination(ae_title="PACS", host="127.0.0.1", port=peer.port, tls=settings)
    timeouts = DeliveryTimeouts(connect_s=5, association_s=5, response_s=5)
    scu = Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=timeouts)
    (said,) = scu.send(there, [file], 60)
    return said.fate, said.reason


def test_results_go_encrypted_to_a_destination_that_we_know_and_that_knows_us(
    encrypted: pacs.Pacs, hospital: Hospital, tmp_path: Path
) -> None:
    file = tmp_path / "1.1.dcm"
    file.write_bytes(part10("1.1"))
    known = Tls(
        authority=str(hospital.authority.certificate),
        certificate=str(hospital.sender.certificate),
        key=str(hospital.sender.key),
    )
    assert send(encrypted, file, known)[0] is Fate.DELIVERED
    other_name = known.model_copy(update={"host": "another.name"})
    assert "mismatch" in refused(encrypted, file, other_name)
    unknown = known.model_copy(update={"authority": str(hospital.stranger.certificate)})
    assert "self-signed certificate" in refused(encrypted, file, unknown)
    assert len(encrypted.received) == 1


@pytest.mark.parametrize(
    ("whose", "said"),
    [
        ("nobody", "certificate required"),
        ("strangers", "unknown ca"),
        ("expired", "certificate expired"),
    ],
)
def test_a_destination_that_refuses_our_certificate_is_quoted(
    encrypted: pacs.Pacs, hospital: Hospital, tmp_path: Path, whose: str, said: str
) -> None:
    file = tmp_path / "1.1.dcm"
    file.write_bytes(part10("1.1"))
    pair: Pair | None = getattr(hospital, whose, None)
    ours = Tls(
        authority=str(hospital.authority.certificate),
        certificate=None if pair is None else str(pair.certificate),
        key=None if pair is None else str(pair.key),
    )
    reason = refused(encrypted, file, ours)
    assert said in reason or "it hangs up" in reason  # before we could hear why
    assert reason.endswith("; see tls.certificate, which it has to trust")
    assert encrypted.received == []


def test_a_destination_whose_certificate_has_expired_is_told_from_one_that_is_away(
    hospital: Hospital, tmp_path: Path
) -> None:
    file = tmp_path / "1.1.dcm"
    file.write_bytes(part10("1.1"))
    expired = {"certificate": hospital.expired.certificate, "key": hospital.expired.key}
    theirs = ServerTls.model_validate({name: str(path) for name, path in expired.items()})
    ours = Tls(authority=str(hospital.authority.certificate))
    with pacs.running(tls=tls.server(theirs)) as peer:
        assert "certificate has expired" in refused(peer, file, ours)
    assert send(peer, file, ours) == (Fate.POSTPONED, "cannot connect")


def refused(peer: pacs.Pacs, file: Path, settings: Tls) -> str:
    """Why nothing was sent, now."""
    fate, reason = send(peer, file, settings)
    assert fate is Fate.POSTPONED
    assert reason.startswith("cannot connect: ")
    return reason
