"""STOW-RS and QIDO-RS: what is sent is the kept file, and each answer has its fate."""

import base64
import time
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog.testing
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset

from dicom_node.config import DeliverySettings, DeliveryTimeouts, DicomWeb
from dicom_node.delivery.breaker import Breaker
from dicom_node.delivery.dicomweb import WebSender
from dicom_node.delivery.outcome import Fate, Outcome
from dicom_node.delivery.query import Series
from dicom_node.errors import TransientError
from storage.jobs import DestinationHealth
from storage.memory import MemoryJobStore
from tests.delivery import web
from tests.delivery.parcels import NOW, part10
from tests.delivery.web import Json, Web, failed, instance, stored

SENDER = WebSender(DeliveryTimeouts(connect_s=30, association_s=30, response_s=30))
HASTY = WebSender(DeliveryTimeouts(connect_s=2, association_s=2, response_s=0.5))
SERIES = Series(study_instance_uid="1.2.3", series_instance_uid="1.2.4")


@pytest.fixture
def peer() -> Iterator[Web]:
    with web.running() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{uid}.dcm" for uid in ("1.1", "1.2", "1.3")]
    for path in paths:
        path.write_bytes(part10(path.stem))
    return paths


_ITEM: Json = {"00081155": {"vr": "UI", "Value": ["1.1"]}}


def at(peer: Web, **values: object) -> DicomWeb:
    return DicomWeb.model_validate({"url": peer.url, **values})


def sent(peer: Web, file: Path) -> Outcome:
    (said,) = SENDER.send(at(peer), [file], 60)
    return said


def test_each_file_is_sent_as_it_is_kept_by_a_request_of_its_own(
    peer: Web, files: list[Path]
) -> None:
    said = SENDER.send(at(peer), files, 60)
    assert [(one.fate, one.status) for one in said] == [(Fate.DELIVERED, "HTTP 200")] * 3
    assert len(peer.bodies) == 3
    for body, file in zip(peer.bodies, files, strict=True):
        assert file.read_bytes() in body


def test_a_large_file_is_sent_as_it_is_kept_too(peer: Web, tmp_path: Path) -> None:
    file = tmp_path / "large.dcm"
    file.write_bytes(part10("1.1") + b"\xfc\xff\xfc\xffOB\x00\x00\x00\x00\x30\x00" + bytes(3 << 20))
    assert sent(peer, file).fate is Fate.DELIVERED
    assert file.read_bytes() in peer.bodies[0]


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (200, Fate.POSTPONED),  # and names no instance as stored
        (202, Fate.POSTPONED),
        (204, Fate.POSTPONED),
        (301, Fate.POSTPONED_SLOWLY),
        (400, Fate.REFUSED),
        (401, Fate.POSTPONED_SLOWLY),
        (403, Fate.POSTPONED_SLOWLY),
        (404, Fate.POSTPONED_SLOWLY),
        (408, Fate.POSTPONED),
        (409, Fate.REFUSED),
        (413, Fate.REFUSED),
        (415, Fate.REFUSED),
        (429, Fate.POSTPONED),
        (500, Fate.POSTPONED),
        (501, Fate.POSTPONED_SLOWLY),
        (503, Fate.POSTPONED),
        (507, Fate.POSTPONED),
    ],
)
def test_each_status_has_its_fate_and_is_one_attempt(
    peer: Web, files: list[Path], status: int, fate: Fate
) -> None:
    peer.answers = [(status, {})]
    said = sent(peer, files[0])
    assert (said.fate, said.status) == (fate, f"HTTP {status}")
    assert len(peer.bodies) == 1  # the library does not try again by itself


@pytest.mark.parametrize(
    ("status", "reason", "fate"),
    [
        (409, 0xA700, Fate.POSTPONED),
        (409, 0x0110, Fate.POSTPONED),
        (409, 0xA900, Fate.REFUSED),
        (409, 0xC000, Fate.REFUSED),
        (202, 0x0122, Fate.REFUSED),
        (202, 0xA700, Fate.POSTPONED),
        (409, 0x0111, Fate.DELIVERED),
    ],
)
def test_a_failure_reason_means_what_it_means_of_a_c_store(
    peer: Web, files: list[Path], status: int, reason: int, fate: Fate
) -> None:
    peer.answers = [(status, failed(reason))]
    said = sent(peer, files[0])
    assert said.fate is fate
    assert f"({reason:04X}) (HTTP {status})" in said.reason


@pytest.mark.parametrize(
    ("status", "reason"),
    [(409, 0x0000), (202, 0xB000), (202, 0xB123), (200, 0x0107), (200, 0x0001), (202, 0x0116)],
)
def test_what_failed_is_not_delivered_whatever_its_reason_says(
    peer: Web, files: list[Path], status: int, reason: int
) -> None:
    peer.answers = [(status, failed(reason))]
    assert sent(peer, files[0]) == Outcome(
        fate=Fate.POSTPONED,
        reason=f"it failed, by a code that does not say so ({reason:04X}) (HTTP {status})",
        status=f"HTTP {status}",
    )


@pytest.mark.parametrize("status", [200, 202, 409])
@pytest.mark.parametrize(
    ("said", "fate"),
    [
        ({**stored("1.1"), **failed(0xA900, "9.9")}, Fate.DELIVERED),
        ({**stored("1.1"), **failed(0xA900)}, Fate.DELIVERED),
        ({**stored("1.1"), **failed(0xA900, "1.1")}, Fate.REFUSED),
        ({**stored("9.9"), **failed(0xA900, "1.1")}, Fate.REFUSED),
        ({**stored("9.9"), **failed(0xA900)}, Fate.REFUSED),
    ],
)
def test_what_is_said_of_another_instance_is_not_of_this(
    peer: Web, files: list[Path], status: int, said: Json, fate: Fate
) -> None:
    peer.answers = [(status, said)]
    assert sent(peer, files[0]).fate is fate


@pytest.mark.parametrize(("status", "fate"), [(202, Fate.POSTPONED), (409, Fate.REFUSED)])
def test_where_another_alone_failed_nothing_is_said_of_this(
    peer: Web, files: list[Path], status: int, fate: Fate
) -> None:
    peer.answers = [(status, failed(0xC000, "9.9"))]
    said = sent(peer, files[0])
    assert said.fate is fate
    assert said.reason.startswith(f"the server answers HTTP {status}")


def test_of_several_reasons_the_first_is_read(peer: Web, files: list[Path]) -> None:
    item = {"00081197": {"vr": "US", "Value": [0xA900, 0xA700]}}
    peer.answers = [(409, {"00081198": {"vr": "SQ", "Value": [item]}})]
    assert sent(peer, files[0]).fate is Fate.REFUSED


@pytest.mark.parametrize("status", [200, 202])
def test_stored_is_only_what_the_server_names_as_stored(
    peer: Web, files: list[Path], status: int
) -> None:
    peer.answers = [(status, None), (status, stored("9.9")), (status, "")]
    assert sent(peer, files[0]).fate is Fate.DELIVERED
    for _ in range(2):
        assert sent(peer, files[0]) == Outcome(
            fate=Fate.POSTPONED,
            reason=f"the server answers HTTP {status}, but does not say that it has stored "
            "this instance",
            status=f"HTTP {status}",
        )


@pytest.mark.parametrize(
    "media_type", ["application/dicom+json; charset=utf-8", "Application/JSON", "text/plain", ""]
)
def test_an_answer_in_json_is_read_whatever_it_is_called(
    peer: Web, files: list[Path], media_type: str
) -> None:
    peer.media_type = media_type
    assert sent(peer, files[0]).fate is Fate.DELIVERED


@pytest.mark.parametrize(
    "said",
    [
        [stored("1.1")],  # as a search is answered
        stored("1.1\0"),
        {**stored("1.1"), "00100020": {"vr": "LO", "Value": [{"x": 1}]}, "0008FFFX": {"vr": "ZZ"}},
        {**stored("1.1"), "00081198": None},
        {"00081199": {"vr": "SQ", "Value": [None, {"00081155": 7}, _ITEM]}},
    ],
)
def test_what_a_server_says_of_an_instance_is_read_whatever_is_wrong_beside_it(
    peer: Web, files: list[Path], said: Json
) -> None:
    peer.answers = [(200, said)]
    assert sent(peer, files[0]).fate is Fate.DELIVERED


_LAUGHS = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>'
_XML = (
    "<NativeDicomModel{}>"
    '<DicomAttribute tag="00081190" vr="UR"><Value number="1">x</Value></DicomAttribute>'
    '<DicomAttribute tag="00081{}" vr="SQ"><Item number="1">'
    '<DicomAttribute tag="00081155" vr="UI"><Value number="1">1.1 </Value></DicomAttribute>'
    '<DicomAttribute tag="0008119{}" vr="US"><Value number="1">45056</Value></DicomAttribute>'
    "</Item></DicomAttribute></NativeDicomModel>"
)


@pytest.mark.parametrize(
    "media_type", ["application/dicom+xml", "text/XML; charset=utf-8", "application/xml"]
)
@pytest.mark.parametrize("space", ["", ' xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"'])
def test_an_answer_in_xml_is_read_too(
    peer: Web, files: list[Path], media_type: str, space: str
) -> None:
    peer.media_type = media_type
    peer.answers = [(200, _XML.format(space, "199", 6)), (200, _XML.format(space, "198", 7))]
    said = SENDER.send(at(peer), [files[0], files[0]], 60)
    assert [one.fate for one in said] == [Fate.DELIVERED, Fate.POSTPONED]
    assert said[0].reason == "coercion of data elements (B000)"
    assert "(B000) (HTTP 200)" in said[1].reason


@pytest.mark.parametrize(
    ("media_type", "said", "words"),
    [
        ("text/html", "<html>Log in</html>", "text/html, JSONDecodeError: Expecting value"),
        ("application/dicom+json", "[{},{}]", "dicom+json, ValueError: not one data set"),
        ("application/xml", "<html/>", "application/xml, ValueError: not a Native DICOM Model"),
        ("application/xml", "<html>", "application/xml, ParseError: no element found"),
        ("text/xml", _LAUGHS, "text/xml, ValueError: it has a document type"),
        ('multipart/related; type="application/dicom+json"', "--b", "multipart/related, JSON"),
    ],
)
def test_an_answer_that_cannot_be_read_says_why(
    peer: Web, files: list[Path], media_type: str, said: str, words: str
) -> None:
    peer.media_type, peer.answers = media_type, [(200, said), (409, said)]
    for fate in (Fate.POSTPONED, Fate.REFUSED):
        one = sent(peer, files[0])
        assert one.fate is fate
        assert "which cannot be read: " in one.reason
        assert words in one.reason


@pytest.mark.parametrize("first", [(100,), (102,), (103,), (102, 103, 102, 199)])
def test_what_is_said_before_the_answer_is_no_answer(
    peer: Web, files: list[Path], first: tuple[int, ...]
) -> None:
    """RFC 9110, 15.2."""
    peer.first = first
    assert sent(peer, files[0]).fate is Fate.DELIVERED
    peer.found = [instance("1.1")]
    assert SENDER.instances(at(peer), {SERIES: ["1.1"]}) == {"1.1"}


def test_a_server_that_would_speak_another_protocol_has_not_answered(
    peer: Web, files: list[Path]
) -> None:
    peer.first = (101,)
    said = sent(peer, files[0])
    assert (said.fate, said.status) == (Fate.POSTPONED, "")
    with pytest.raises(TransientError):
        SENDER.instances(at(peer), {SERIES: ["1.1"]})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_to_a_log_in_page_is_not_followed(
    peer: Web, files: list[Path], status: int
) -> None:
    peer.location = "/login"
    peer.answers = [(status, {})]
    said = sent(peer, files[0])
    assert (said.fate, said.reason) == (
        Fate.POSTPONED_SLOWLY,
        f"the server answers HTTP {status}",
    )
    peer.search_status = status
    assert SENDER.echo(at(peer)) == f"QIDO-RS: HTTP {status}"
    assert peer.searches == ["/dicom-web/studies?limit=1"]


def test_a_warning_is_delivered_with_a_note(peer: Web, files: list[Path]) -> None:
    peer.answers = [(202, stored("1.1", 0xB000))]
    assert sent(peer, files[0]) == Outcome(
        fate=Fate.DELIVERED, reason="coercion of data elements (B000)", status="HTTP 202"
    )


def test_an_empty_warning_reason_is_none_and_the_rest_of_its_batch_goes_on(
    peer: Web, files: list[Path]
) -> None:
    peer.answers = [(202, stored("1.1", empty=True)), (200, None)]
    outcomes = SENDER.send(at(peer), files[:2], 60)
    assert [(one.fate, one.reason) for one in outcomes] == [(Fate.DELIVERED, "")] * 2


def test_of_a_batch_each_has_its_own_answer_and_the_rest_waits_where_none_comes(
    peer: Web, files: list[Path]
) -> None:
    peer.answers = [(401, {}), (200, None), (409, failed(0xC000))]
    assert [one.fate for one in SENDER.send(at(peer), files, 60)] == [
        Fate.POSTPONED_SLOWLY,
        Fate.DELIVERED,
        Fate.REFUSED,
    ]
    peer.answers = [(200, None), (web.HANG_UP, {})]
    said = SENDER.send(at(peer), files, 60)
    assert [one.fate for one in said] == [Fate.DELIVERED, Fate.POSTPONED, Fate.UNSENT]
    assert said[1].reason == "no answer: it hangs up"


def test_what_is_wanting_in_mid_batch_costs_no_result_the_answer_it_has(
    peer: Web, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    posted, post = [], DICOMwebClient._http_post

    def short(*args: Any) -> Any:
        posted.append(args)
        if len(posted) == 2:
            raise MemoryError
        return post(*args)

    monkeypatch.setattr(DICOMwebClient, "_http_post", short)
    said = SENDER.send(at(peer), files, 60)
    assert [one.fate for one in said] == [Fate.DELIVERED, Fate.POSTPONED, Fate.DELIVERED]
    assert said[1].reason == "too little memory was free; free some, or give it more"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_nothing_more_is_sent_to_a_server_in_trouble(
    peer: Web, files: list[Path], status: int
) -> None:
    peer.answers = [(status, {})]
    assert [one.fate for one in SENDER.send(at(peer), files, 60)] == [
        Fate.POSTPONED,
        Fate.UNSENT,
        Fate.UNSENT,
    ]
    assert len(peer.bodies) == 1


def test_a_server_that_stays_in_trouble_rests_until_it_answers_a_query(
    peer: Web, files: list[Path]
) -> None:
    store = MemoryJobStore()
    settings = DeliverySettings(rest_after=2)
    breaker = Breaker(
        store=store, probe=lambda _: SENDER.probe(at(peer)), settings=settings, chance=lambda: 0.5
    )
    peer.answers, peer.search_status = [(503, {}), (502, {})], 503
    for _ in range(2):
        assert breaker.lets("cloud", at(peer), NOW)
        breaker.note("cloud", SENDER.send(at(peer), files, 60), NOW)
    assert not breaker.lets("cloud", at(peer), NOW)
    assert not breaker.lets("cloud", at(peer), NOW + timedelta(seconds=20))
    peer.search_status = 200
    assert breaker.lets("cloud", at(peer), NOW + timedelta(seconds=60))


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
def test_a_server_that_takes_results_but_may_not_be_asked_is_there(peer: Web, status: int) -> None:
    peer.search_status = status
    assert SENDER.probe(at(peer)) == ""
    assert SENDER.echo(at(peer)) == f"QIDO-RS: HTTP {status}"


def test_a_server_that_answers_with_a_page_is_there(peer: Web) -> None:
    peer.found = "<html>"  # type: ignore[assignment]  # as of a site that knows no such path
    assert SENDER.probe(at(peer)) == ""
    assert SENDER.echo(at(peer)).startswith("QIDO-RS: ")


_DEEP = "[" * 100_000 + "]" * 100_000
_INFINITE = '[{"00201208": {"vr": "IS", "Value": [1e999]}}]'


@pytest.mark.parametrize("said", [_DEEP, _INFINITE, "null", "[null]", '[{"0020000D": 1}]'])
def test_an_answer_that_nobody_can_read_is_one_and_says_nothing(
    peer: Web, files: list[Path], said: str
) -> None:
    peer.raw = said
    assert SENDER.probe(at(peer)) == ""
    assert SENDER.echo(at(peer)).startswith("QIDO-RS: ")
    with pytest.raises(TransientError, match="QIDO-RS: "):
        SENDER.instances(at(peer), {SERIES: ["1.1"]})
    peer.answers = [(200, said)]
    with structlog.testing.capture_logs() as log:
        one = sent(peer, files[0])
    assert one.fate is Fate.POSTPONED
    assert one.reason.startswith("the server answers HTTP 200, ")
    assert log == []


def test_a_destination_rests_longer_and_longer_whatever_goes_wrong_as_it_is_probed() -> None:
    def probe(_: object) -> str:
        raise OverflowError

    store = MemoryJobStore()
    settings = DeliverySettings(rest_after=1)
    breaker = Breaker(store=store, probe=probe, settings=settings, chance=lambda: 0.5)
    store.note_destination(DestinationHealth(name="cloud", failures=1, retry_at=NOW), NOW)
    there = DicomWeb(url="http://127.0.0.1:1/dicom-web")
    for after_s, next_s in ((0, 20), (20, 60), (60, 140)):
        assert not breaker.lets("cloud", there, NOW + timedelta(seconds=after_s))
        health = store.destination("cloud")
        assert health.retry_at == NOW + timedelta(seconds=next_s)
        assert health.reason == "OverflowError: see the log"


def test_a_server_that_is_in_trouble_or_gone_is_not_sent_to(peer: Web) -> None:
    peer.search_status = 503
    assert SENDER.probe(at(peer)) == "QIDO-RS: HTTP 503"
    with web.running() as gone:
        pass
    assert SENDER.probe(at(gone)) == "QIDO-RS: Connection refused"


def test_a_server_that_is_not_there_is_tried_again(files: list[Path]) -> None:
    with web.running() as gone:
        pass
    said = SENDER.send(at(gone), files[:2], 60)
    assert [(one.fate, one.status) for one in said] == [(Fate.POSTPONED, ""), (Fate.UNSENT, "")]
    assert said[0].reason == "no answer: Connection refused"


def test_nothing_is_begun_after_the_time_is_up(peer: Web, files: list[Path]) -> None:
    assert [one.fate for one in SENDER.send(at(peer), files, 0)] == [Fate.UNSENT] * 3
    assert peer.bodies == []


def test_the_server_is_told_who_we_are(peer: Web, files: list[Path]) -> None:
    SENDER.send(at(peer, bearer_token="t0ken"), files[:1], 60)
    SENDER.send(at(peer, username="vald", password="s3cret"), files[:1], 60)
    basic = base64.b64encode(b"vald:s3cret").decode()
    assert peer.authorisation == ["Bearer t0ken", f"Basic {basic}"]


def test_a_password_of_any_letters_is_sent_in_utf_8(peer: Web, files: list[Path]) -> None:
    (outcome,) = SENDER.send(at(peer, username="vald", password="10 €"), files[:1], 60)
    assert outcome.fate is Fate.DELIVERED
    basic = base64.b64encode("vald:10 €".encode()).decode()
    assert peer.authorisation == [f"Basic {basic}"]


def test_what_a_search_finds_of_what_was_sent_is_there(peer: Web) -> None:
    peer.found = [instance("1.1"), instance("9.9")]
    assert SENDER.instances(at(peer), {SERIES: ["1.1", "1.2"]}) == {"1.1"}
    where = "/dicom-web/studies/1.2.3/series/1.2.4/instances?SOPInstanceUID="
    assert peer.searches == [f"{where}1.1", f"{where}1.2"]


def test_what_is_there_is_found_in_a_series_of_many_pages(peer: Web) -> None:
    peer.found, peer.page_size = [instance(f"1.{i}") for i in range(130)], 100
    wanted = {SERIES: ["1.1", "1.127", "1.129", "1.999"]}
    assert SENDER.instances(at(peer), wanted) == {"1.1", "1.127", "1.129"}


def test_a_server_that_looks_at_no_filter_is_not_believed(peer: Web) -> None:
    peer.found, peer.heeds_filters = [instance("9.9")], False
    assert SENDER.instances(at(peer), {SERIES: ["1.1"]}) == set()


def test_a_search_that_fails_says_so(peer: Web) -> None:
    peer.search_status = 503
    with pytest.raises(TransientError, match="QIDO-RS: HTTP 503"):
        SENDER.instances(at(peer), {SERIES: ["1.1"]})
    assert SENDER.echo(at(peer)) == "QIDO-RS: HTTP 503"
    peer.search_status = 200
    assert SENDER.echo(at(peer)) == ""


def described(uid: str, patient_id: str) -> Json:
    """What QIDO-RS says of a study."""
    return {
        "0020000D": {"vr": "UI", "Value": [uid]},
        "00100020": {"vr": "LO", "Value": [patient_id]},
        "00080050": {"vr": "SH", "Value": ["A1"]},
    }


def test_a_study_is_described_where_there_is_one(peer: Web) -> None:
    assert SENDER.study(at(peer), "1.2.3") == []
    peer.found = [described("9.9", "ANOTHER"), described("1.2.3", "PID"), described("", "NONE")]
    (study,) = SENDER.study(at(peer), "1.2.3")
    assert (study.PatientID, study.AccessionNumber) == ("PID", "A1")


@pytest.mark.parametrize("raw", ['["1.2.3"]', "3", '"1.2.3"', "[[]]"])
def test_an_answer_that_is_no_list_of_data_sets_is_none(peer: Web, raw: str) -> None:
    peer.raw = raw
    assert SENDER.echo(at(peer)) == "QIDO-RS: TypeError"
    with pytest.raises(TransientError, match="QIDO-RS: TypeError"):
        SENDER.instances(at(peer), {SERIES: ["1.1"]})


@pytest.mark.parametrize("padding", ["\0", " "])
def test_a_padded_uid_is_that_uid(peer: Web, padding: str) -> None:
    """Of servers that copy the bytes (PS3.5 9.1)."""
    peer.heeds_filters = False
    peer.found = [instance("1.1" + padding), instance("1.10" + padding)]
    assert SENDER.instances(at(peer), {SERIES: ["1.1", "1.2"]}) == {"1.1"}
    peer.found = [{"0020000D": {"vr": "UI", "Value": ["1.2.3" + padding]}}]
    assert len(SENDER.study(at(peer), "1.2.3")) == 1
    assert SENDER.study(at(peer), "1.2.30") == []


def test_a_study_is_known_by_its_tag_in_small_letters_too(peer: Web) -> None:
    peer.found = [{tag.lower(): said for tag, said in described("1.2.3", "PID").items()}]
    assert len(SENDER.study(at(peer), "1.2.3")) == 1


def test_an_answer_that_does_not_end_in_time_is_none(peer: Web, files: list[Path]) -> None:
    peer.pause_s = 0.1  # each byte comes in time, and a hundred of them do not
    peer.found = [instance("1.1")]
    began = time.monotonic()
    (said,) = HASTY.send(at(peer), files[:1], 60)
    assert said.fate is Fate.POSTPONED
    with pytest.raises(TransientError, match="QIDO-RS: it takes too long"):
        HASTY.instances(at(peer), {SERIES: ["1.1"]})
    assert time.monotonic() - began < 5


def many_studies(number: int) -> list[Json]:
    """With comments of 2 KB each, as a server may say that has much to tell."""
    words: Json = {"00104000": {"vr": "LT", "Value": ["x" * 2048]}}
    return [described(f"1.2.{n}", "PID") | words for n in range(number)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is read as a data set from now on."""
    read, from_json = [], Dataset.from_json

    def noted(said: Any) -> Dataset:
        read.append(said)
        return from_json(said)

    monkeypatch.setattr(Dataset, "from_json", noted)
    return read


def test_a_server_that_tells_of_all_its_studies_whatever_it_is_asked_is_well(
    peer: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was not asked for is not read, which would take minutes of what else goes on."""
    peer.found, read = many_studies(3000), counted(monkeypatch)
    assert SENDER.echo(at(peer)) == SENDER.probe(at(peer)) == ""
    assert len(read) == 2
    read.clear()
    (study,) = SENDER.study(at(peer), "1.2.2999")
    assert study.PatientID == "PID"
    assert len(read) == 2  # the first, too
    peer.found = many_studies(4000)
    assert SENDER.echo(at(peer)) == "QIDO-RS: its answer is too large"


@pytest.mark.parametrize("zipped", [False, True])
def test_an_answer_far_longer_than_one_instance_is_not_read(
    peer: Web, files: list[Path], zipped: bool
) -> None:
    peer.zipped, long = zipped, "[" + "{}," * 400_000 + "{}]"
    peer.answers, peer.raw = [(200, long)], long
    with structlog.testing.capture_logs() as log:
        said = sent(peer, files[0])
    assert (said.fate, said.status, log) == (Fate.POSTPONED, "HTTP 200", [])
    with pytest.raises(TransientError, match="QIDO-RS: its answer is too large"):
        SENDER.instances(at(peer), {SERIES: ["1.1"]})
    assert SENDER.probe(at(peer)) == ""


def test_an_answer_of_many_items_takes_little_memory(peer: Web, files: list[Path]) -> None:
    many = "[" + "{}," * 300_000 + "{}]"
    peer.answers, peer.raw, peer.zipped = [(200, many)], many, True
    tracemalloc.start()
    try:
        sent(peer, files[0])
        assert SENDER.instances(at(peer), {SERIES: ["1.1"]}) == set()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_an_answer_is_read_once(
    peer: Web, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, as_json = [], requests.Response.json

    def counted(response: requests.Response) -> Any:
        read.append(response)
        return as_json(response)

    monkeypatch.setattr(requests.Response, "json", counted)
    assert sent(peer, files[0]).fate is Fate.DELIVERED
    assert len(read) == 1


def test_a_head_that_does_not_end_in_time_is_no_answer(files: list[Path]) -> None:
    began = time.monotonic()
    with web.trickling() as url:
        (said,) = HASTY.send(DicomWeb(url=url), files[:1], 60)
    assert time.monotonic() - began < 5
    assert (said.fate, said.reason) == (Fate.POSTPONED, "no answer: it takes too long")


@pytest.mark.parametrize("begins", [b"1;x=", b"0\r\nX-Long: "])
def test_a_body_whose_pieces_do_not_end_in_time_is_no_answer(
    files: list[Path], begins: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    began = time.monotonic()
    with web.trickling(begins=head + begins) as url:
        (said,) = HASTY.send(DicomWeb(url=url), files[:1], 60)
    assert time.monotonic() - began < 5
    assert said.fate is Fate.POSTPONED


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    """16 MB, which is sent in pieces of 1 MB."""
    path = tmp_path / "long.dcm"
    path.write_bytes(part10("1.1") + bytes(16_000_000))
    return path


def test_a_long_upload_may_take_longer_than_connecting_and_answering(
    peer: Web, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the claim is renewed, now and then."""
    monkeypatch.setattr("dicom_node.delivery.dicomweb._SAID_S", 0.5)
    patient = WebSender(DeliveryTimeouts(connect_s=0.05, association_s=2, response_s=2))
    peer.piece_bytes, peer.piece_s = 1 << 19, 0.1  # 5 MB a second, of which 4 MB may lie between
    going_on: list[float] = []

    def beginning() -> bool:
        going_on.append(time.monotonic())
        return True

    (said,) = patient.send(at(peer), [long_file], 60, beginning)
    assert (said.fate, said.reason) == (Fate.DELIVERED, "")
    assert going_on[-1] - going_on[0] > 1
    assert min(b - a for a, b in pairwise(going_on[1:])) > 0.5
    assert long_file.read_bytes() in peer.bodies[0]


def test_a_server_that_does_not_take_what_is_sent_is_left(peer: Web, long_file: Path) -> None:
    peer.piece_bytes, peer.piece_s = 1000, 0.1  # each byte in time, and a million of them not
    began = time.monotonic()
    (said,) = HASTY.send(at(peer), [long_file], 60)
    assert time.monotonic() - began < 5
    assert (said.fate, said.reason) == (Fate.POSTPONED, "no answer: it takes too long")
