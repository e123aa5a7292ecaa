"""DICOMweb by TLS, with a real server: who is trusted, who is not, and what is said then."""

import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node import tls
from dicom_node.config import DeliveryTimeouts, DicomWeb, ServerTls
from dicom_node.delivery.dicomweb import WebSender
from dicom_node.delivery.outcome import Fate, Outcome
from dicom_node.delivery.query import Series
from dicom_node.errors import TransientError
from tests.delivery import web
from tests.delivery.parcels import part10
from tests.delivery.web import Web, instance
from tests.intake import certificates
from tests.intake.certificates import Pair

SENDER = WebSender(DeliveryTimeouts(connect_s=5, association_s=5, response_s=5))
SERIES = Series(study_instance_uid="1.2.3", series_instance_uid="1.2.4")


class Hospital:
    """Its authority and a stranger's, and what each has signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = certificates.authority(folder, "hospital")
        self.stranger = certificates.authority(folder, "stranger")
        self.server = certificates.signed(folder, "server", self.authority)
        self.node = certificates.signed(folder, "node", self.authority)
        self.strangers = certificates.signed(folder, "strangers", self.stranger)

    def archive(self, *, mutual: bool = True) -> AbstractContextManager[Web]:
        """A DICOMweb server; one that is mutual wants a certificate of its authority."""
        wants = {"authority": str(self.authority.certificate)} if mutual else {}
        return web.running(self.context(**wants))

    def context(self, **wants: str) -> ssl.SSLContext:
        """Of a server with the hospital's certificate."""
        named = {"certificate": str(self.server.certificate), "key": str(self.server.key)}
        return tls.server(ServerTls.model_validate({**named, **wants}))

    def there(self, url: str) -> DicomWeb:
        """The destination, of which no certificate of ours is wanted."""
        authority = {"authority": str(self.authority.certificate)}
        return DicomWeb.model_validate({"url": url, "tls": authority})

    def at(self, archive: Web, ours: Pair | None = None, **values: str) -> DicomWeb:
        """The destination, which trusts the hospital's authority."""
        named = {"authority": str(self.authority.certificate), **values}
        if ours is not None:
            named |= {"certificate": str(ours.certificate), "key": str(ours.key)}
        return DicomWeb.model_validate({"url": archive.url, "tls": named})


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def archive(hospital: Hospital) -> Iterator[Web]:
    with hospital.archive() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "1.1.dcm"
    path.write_bytes(part10("1.1"))
    return path


def long_file(folder: Path) -> Path:
    """More than any buffer on the way takes."""
    path = folder / "long.dcm"
    path.write_bytes(part10("1.1") + bytes(16_000_000))
    return path


def sent(destination: DicomWeb, file: Path) -> Outcome:
    (said,) = SENDER.send(destination, [file], 60)
    return said


def test_results_are_sent_and_found_by_tls_with_a_certificate_of_ours(
    hospital: Hospital, archive: Web, file: Path
) -> None:
    destination = hospital.at(archive, hospital.node)
    assert sent(destination, file).fate is Fate.DELIVERED
    assert file.read_bytes() in archive.bodies[0]
    archive.found = [instance("1.1")]
    assert SENDER.instances(destination, {SERIES: ["1.1", "1.2"]}) == {"1.1"}
    assert SENDER.echo(destination) == ""


def test_a_server_that_our_authority_has_not_signed_gets_nothing(
    hospital: Hospital, archive: Web, file: Path
) -> None:
    wrong = hospital.at(archive, hospital.node, authority=str(hospital.stranger.certificate))
    said = sent(wrong, file)
    assert said.fate is Fate.POSTPONED
    assert said.reason.startswith("no answer: its certificate is refused: ")
    assert said.reason.endswith("; see tls.authority, and tls.host for the name in its certificate")
    assert archive.bodies == []
    assert SENDER.echo(wrong).startswith("QIDO-RS: its certificate is refused: ")
    with pytest.raises(TransientError, match="its certificate is refused: "):
        SENDER.instances(wrong, {SERIES: ["1.1"]})


def test_the_public_authorities_are_not_trusted_beside_the_hospital_s(
    hospital: Hospital, archive: Web, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would add its own bundle: here one that has the server's signer."""
    bundle = str(hospital.authority.certificate)
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", bundle)
    wrong = hospital.at(archive, hospital.node, authority=str(hospital.stranger.certificate))
    assert "its certificate is refused" in sent(wrong, file).reason


def test_a_server_has_to_bear_the_name_that_it_is_known_by(
    hospital: Hospital, archive: Web, file: Path
) -> None:
    named = hospital.at(archive, hospital.node, host="localhost")
    assert sent(named, file).fate is Fate.DELIVERED
    said = sent(hospital.at(archive, hospital.node, host="pacs.hospital"), file).reason
    assert "certificate is not valid for 'pacs.hospital'" in said
    assert "tls.host" in said
    assert len(archive.bodies) == 1


@pytest.mark.parametrize("ours", ["none", "a stranger's"])
def test_a_server_that_refuses_our_certificate_is_told_of(
    hospital: Hospital, archive: Web, file: Path, ours: str
) -> None:
    destination = hospital.at(archive, None if ours == "none" else hospital.strangers)
    said = sent(destination, file)
    assert said.fate is Fate.POSTPONED
    assert said.reason.endswith("; see tls.certificate, which it has to trust")
    assert archive.bodies == []
    assert "tls.certificate" in SENDER.echo(destination)


def test_a_server_that_is_not_there_is_no_matter_of_certificates(
    hospital: Hospital, file: Path
) -> None:
    with hospital.archive() as archive:
        away = hospital.at(archive, hospital.node)
    said = sent(away, file)
    assert (said.fate, said.reason) == (Fate.POSTPONED, "no answer: Connection refused")


@pytest.mark.parametrize("name", ["authority", "certificate"])
def test_a_file_that_is_not_there_is_named_and_nothing_is_sent(
    hospital: Hospital, archive: Web, file: Path, name: str
) -> None:
    gone = str(hospital.folder / "gone.pem")
    whole = hospital.at(archive, hospital.node)
    assert whole.tls is not None
    destination = whole.model_copy(update={"tls": whole.tls.model_copy(update={name: gone})})
    said = sent(destination, file)
    assert said.fate is Fate.POSTPONED_SLOWLY
    assert said.reason.startswith("tls: ")
    assert said.reason.endswith(f"No such file or directory: {gone}")
    assert SENDER.echo(destination) == f"QIDO-RS: {said.reason}"


def test_what_is_no_certificate_is_named(hospital: Hospital, archive: Web, file: Path) -> None:
    said = sent(hospital.at(archive, hospital.node, authority=str(file)), file)
    assert said.fate is Fate.POSTPONED_SLOWLY
    assert said.reason.startswith("tls: authority: ")
    assert said.reason.endswith(str(file))


def test_tls_settings_of_a_server_that_is_not_encrypted_are_refused() -> None:
    with pytest.raises(ValidationError, match="begins with https://"):
        DicomWeb.model_validate({"url": "http://pacs.hospital/dicom-web", "tls": {}})


def test_a_head_that_does_not_end_in_time_is_no_answer(hospital: Hospital, file: Path) -> None:
    hasty = WebSender(DeliveryTimeouts(connect_s=2, association_s=2, response_s=0.5))
    began = time.monotonic()
    with web.trickling(hospital.context()) as url:
        (said,) = hasty.send(hospital.there(url), [file], 60)
    assert time.monotonic() - began < 5
    assert (said.fate, said.reason) == (Fate.POSTPONED, "no answer: it takes too long")


@pytest.mark.parametrize("encrypted", [True, False])
def test_that_we_cut_off_a_server_is_no_matter_of_certificates(
    hospital: Hospital, tmp_path: Path, *, encrypted: bool
) -> None:
    """It takes nothing more of a result: TLS has no end that both know of."""
    hasty = WebSender(DeliveryTimeouts(connect_s=2, association_s=2, response_s=0.5))
    with web.stuffed(hospital.context() if encrypted else None) as url:
        there = hospital.there(url) if encrypted else DicomWeb(url=url)
        (said,) = hasty.send(there, [long_file(tmp_path)], 60)
    assert (said.fate, said.reason) == (Fate.POSTPONED, "no answer: it takes too long")


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("closes", [True, False])
def test_a_server_that_answers_before_it_has_all_is_heard(
    hospital: Hospital, tmp_path: Path, *, closes: bool, encrypted: bool
) -> None:
    """Also where it then neither reads on nor closes, which alone has us wait for all our time."""
    response_s = 30 if closes else 3
    hasty = WebSender(DeliveryTimeouts(connect_s=30, association_s=30, response_s=response_s))
    with web.hasty(hospital.context() if encrypted else None, closes=closes) as url:
        there = hospital.there(url) if encrypted else DicomWeb(url=url)
        (said,) = hasty.send(there, [long_file(tmp_path)], 60)
    assert said == Outcome(
        fate=Fate.REFUSED, reason="the server answers HTTP 413", status="HTTP 413"
    )
