"""A PACS that behaves badly, in every way: what docs/durability.md says is what happens."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.config import DeliverySettings, Destination, Retry
from dicom_node.delivery import study
from dicom_node.delivery.dicomweb import WebSender
from dicom_node.delivery.gateway import open_gateway
from dicom_node.delivery.scu import Scu
from storage.states import DeliveryState
from tests.delivery import pacs
from tests.delivery.parcels import CAPTURE, NOW, data_set
from tests.delivery.test_delivery import SETTINGS, TIMEOUTS, UIDS, Bench

DUE, DELIVERED, REFUSED = DeliveryState.DUE, DeliveryState.DELIVERED, DeliveryState.REFUSED
_HASTY = SETTINGS.model_copy(
    update={
        "timeouts": SETTINGS.timeouts.model_copy(
            update={"association_s": 30, "response_s": 1, "connect_s": 30}
        ),
        "rest_after": 3,
        "retry": Retry(first_delay_s=10, factor=2, max_delay_s=1000, jitter=0),
    }
)

_PATIENT = _HASTY.model_copy(
    update={
        "timeouts": TIMEOUTS.model_copy(
            update={"association_s": 30, "response_s": 30, "connect_s": 30}
        )
    }
)
"""For a PACS that answers, on a machine with much to do: the other is for one that is silent."""


@pytest.fixture
def peer() -> Iterator[pacs.Pacs]:
    with pacs.running(commitment=True) as running:
        yield running


def tick(bench: Bench, after_s: float, settings: DeliverySettings = _PATIENT) -> int:
    return bench.tick(NOW + timedelta(seconds=after_s), settings)


def whole(peer: pacs.Pacs) -> bool:
    """Every object that it was ever sent has the bytes that were kept."""
    return all(sent == data_set(uid) for uid, sent in peer.received)


@pytest.mark.parametrize(
    ("rejection", "wait_s"),
    [
        ((1, 1, 1), 1000),
        ((1, 1, 2), 1000),
        ((1, 1, 3), 1000),
        ((1, 1, 7), 1000),
        ((1, 2, 1), 1000),
        ((1, 2, 2), 1000),
        ((2, 1, 1), 10),
        ((2, 3, 1), 10),
        ((2, 3, 2), 10),
    ],
)
def test_after_each_reason_of_a_rejection_all_is_sent_in_time(
    tmp_path: Path, peer: pacs.Pacs, rejection: tuple[int, int, int], wait_s: float
) -> None:
    peer.rejections = [rejection]
    bench = Bench(tmp_path, {"pacs": peer.port})
    assert tick(bench, 0) == 0
    assert bench.waits_s() == [wait_s] * 3
    assert {d.status for d in bench.store.deliveries(bench.key)} == {
        "RJ " + " ".join(map(str, rejection))
    }
    assert tick(bench, wait_s) == 3
    assert whole(peer)


@pytest.mark.parametrize("nth", [0, 1, 2])
@pytest.mark.parametrize("fault", [pacs.ABORT, pacs.HANG_UP, pacs.SILENCE, 0xA700, 0x0110])
def test_whatever_happens_at_the_nth_each_result_arrives_and_is_the_same(
    tmp_path: Path, peer: pacs.Pacs, nth: int, fault: int | str
) -> None:
    peer.answers = [*[0x0000] * nth, fault]
    bench = Bench(tmp_path, {"pacs": peer.port})
    first = tick(bench, 0, _HASTY if fault == pacs.SILENCE else _PATIENT)
    assert first == (2 if isinstance(fault, int) else nth)
    tick(bench, 0.1)  # what was not begun
    peer.done.set()
    tick(bench, 10)  # what failed
    assert bench.states() == [DELIVERED] * 3
    assert [d.status for d in bench.store.deliveries(bench.key)] == ["0000"] * 3
    times = [[uid for uid, _ in peer.received].count(uid) for uid in UIDS]
    assert sorted(times) == [1, 1, 2]  # only the one that failed came twice
    assert whole(peer)


@pytest.mark.parametrize(
    ("status", "state"), [(0xA900, REFUSED), (0xC000, REFUSED), (0xB000, DELIVERED)]
)
def test_an_answer_for_good_is_not_asked_for_again(
    tmp_path: Path, peer: pacs.Pacs, status: int, state: DeliveryState
) -> None:
    peer.answers = [status] * 3
    bench = Bench(tmp_path, {"pacs": peer.port})
    tick(bench, 0)
    tick(bench, 100_000)
    assert len(peer.received) == 3
    found = bench.store.deliveries(bench.key)
    assert {(d.state, d.status, d.attempts) for d in found} == {(state, f"{status:04X}", 1)}


def test_a_destination_that_is_away_rests_and_is_only_probed(
    tmp_path: Path, closed_port: int
) -> None:
    bench = Bench(tmp_path, {"pacs": closed_port})
    for after_s in (0, 10, 30):  # 10 and 20 s of delay
        tick(bench, after_s)
    health = bench.store.destination("pacs")
    assert (health.failures, health.reason) == (3, "cannot connect")
    assert health.retry_at == NOW + timedelta(seconds=30 + 40)
    for after_s in (69, 70, 149):  # the probe at 70 fails: 80 s more
        assert tick(bench, after_s) == 0
    assert [d.attempts for d in bench.store.deliveries(bench.key)] == [3] * 3
    assert bench.store.destination("pacs").retry_at == NOW + timedelta(seconds=150)
    assert bench.states() == [DUE] * 3


def test_a_destination_that_answers_again_gets_all_that_has_waited(
    tmp_path: Path, peer: pacs.Pacs
) -> None:
    peer.rejections = [(1, 1, 3)] * 3  # each makes the results wait for 1000 s
    bench = Bench(tmp_path, {"pacs": peer.port})
    for after_s in (0, 1000, 2000):
        tick(bench, after_s)
    assert peer.echoes == 0
    assert tick(bench, 2039) == 0
    assert tick(bench, 2040) == 3
    assert peer.echoes == 1
    assert bench.store.destination("pacs").failures == 0
    assert bench.states() == [DELIVERED] * 3


def test_one_answer_of_any_kind_ends_the_count_of_failures(tmp_path: Path, peer: pacs.Pacs) -> None:
    peer.rejections = [(2, 3, 1)] * 2
    bench = Bench(tmp_path, {"pacs": peer.port})
    for after_s in (0, 10):
        tick(bench, after_s)
    assert bench.store.destination("pacs").failures == 2
    peer.answers = [0xA700] * 3
    tick(bench, 30)
    assert bench.store.destination("pacs").failures == 0


def test_a_destination_that_offers_no_verification_is_there(tmp_path: Path) -> None:
    with pacs.running(verification=False) as plain:
        plain.rejections = [(2, 3, 1)] * 3
        bench = Bench(tmp_path, {"pacs": plain.port})
        for after_s in (0, 10, 30):
            tick(bench, after_s)
        assert tick(bench, 70) == 3


def test_a_held_destination_is_left_alone_and_gets_all_when_released(
    tmp_path: Path, peer: pacs.Pacs
) -> None:
    bench = Bench(tmp_path, {"pacs": peer.port})
    bench.store.hold("pacs", NOW)
    assert tick(bench, 100) == 0
    assert peer.associations == 0
    assert bench.states() == [DeliveryState.HELD] * 3
    bench.store.release_destination("pacs", NOW + timedelta(seconds=200))
    assert tick(bench, 200) == 3


def test_what_would_come_too_late_is_not_sent(tmp_path: Path, peer: pacs.Pacs) -> None:
    peer.answers = [0x0000, 0xA700, 0xA700]
    bench = Bench(tmp_path, {"pacs": peer.port})
    limited = _PATIENT.model_copy(update={"expire_after_s": 60.0})
    assert tick(bench, 0, limited) == 1
    assert tick(bench, 61, limited) == 0
    assert sorted(map(str, bench.states())) == ["DELIVERED", "EXPIRED", "EXPIRED"]
    reasons = {d.reason for d in bench.store.deliveries(bench.key)}
    assert reasons == {"", "too late: not delivered within 60 s of its film"}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"PatientID": "OTHER", "AccessionNumber": ""}, "another patient:"),
        ({"PatientID": "", "AccessionNumber": "A2"}, "another accession number:"),
        ({"PatientID": "OTHER", "AccessionNumber": "A2"}, "another patient and accession number:"),
    ],
)
def test_a_study_that_was_changed_there_keeps_its_results_back_and_says_so(
    tmp_path: Path, peer: pacs.Pacs, there: dict[str, str], words: str
) -> None:
    bench = Bench(tmp_path, {"pacs": peer.port})
    confirming = bench.destinations["pacs"].model_copy(update={"confirm_study": True})
    bench.destinations["pacs"] = confirming
    peer.study = there
    assert tick(bench, 0) == 0
    assert peer.received == []
    assert bench.waits_s() == [1000] * 3
    for delivery in bench.store.deliveries(bench.key):
        assert words in delivery.reason
        assert "OTHER" not in delivery.reason
    peer.study = {"PatientID": "", "AccessionNumber": ""}
    assert tick(bench, 1000) == 3


@pytest.mark.parametrize("confirms", [True, None])
def test_other_studies_that_an_archive_answers_with_are_not_the_one_asked_for(
    tmp_path: Path, peer: pacs.Pacs, confirms: bool | None
) -> None:
    """One of them agrees by chance, since it is of the patient that the study no longer has."""
    bench = Bench(tmp_path, {"pacs": peer.port})
    confirming = bench.destinations["pacs"].model_copy(update={"confirm_study": confirms})
    bench.destinations["pacs"] = confirming
    peer.former = {"StudyInstanceUID": "9.9", "PatientID": "", "AccessionNumber": ""}
    peer.study = {"PatientID": "OTHER", "AccessionNumber": ""}
    assert tick(bench, 0) == 0
    assert bench.waits_s() == [1000] * 3
    peer.former, peer.study = {}, {**peer.study, "StudyInstanceUID": "9.9"}
    assert tick(bench, 1000) == 3


def test_a_study_that_is_not_there_keeps_nothing_back_and_one_that_cannot_be_asked_for_does(
    tmp_path: Path, peer: pacs.Pacs
) -> None:
    bench = Bench(tmp_path, {"pacs": peer.port})
    confirming = bench.destinations["pacs"].model_copy(update={"confirm_study": True})
    bench.destinations["pacs"] = confirming
    peer.find_status = 0xA700
    assert tick(bench, 0) == 0
    assert {d.reason for d in bench.store.deliveries(bench.key)} == {
        "its study was not asked for: C-FIND: A700"
    }
    peer.find_status = 0x0000
    assert tick(bench, 10) == 3


def test_a_destination_that_need_not_answer_keeps_back_what_it_says_was_changed_and_no_more(
    tmp_path: Path, peer: pacs.Pacs
) -> None:
    """As every one is whose results nobody looks for."""
    bench = Bench(tmp_path, {"pacs": peer.port})
    by_default = bench.destinations["pacs"].model_copy(update={"confirm_study": None})
    bench.destinations["pacs"] = by_default
    peer.study = {"PatientID": "OTHER", "AccessionNumber": ""}
    assert tick(bench, 0) == 0
    assert bench.waits_s() == [1000] * 3
    peer.find_status = 0xA700
    assert tick(bench, 1000) == 3


def objections_to(folder: Path, peer: pacs.Pacs, studies: Sequence[str]) -> int:
    """How many of as many results, of patient P1, are kept back."""
    files = []
    for uid in studies:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = UID(CAPTURE), UID(f"{uid}.1")
        ds.StudyInstanceUID, ds.PatientID = uid, "P1"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        files.append(folder / f"{uid}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    scu = Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=TIMEOUTS)
    gateway = open_gateway(scu, WebSender(TIMEOUTS))
    place = Destination(ae_title="PACS", host="127.0.0.1", port=peer.port)
    return len(study.objections(gateway, place, files, within_s=60))


def test_what_a_destination_that_need_not_answer_leaves_empty_keeps_nothing_back(
    tmp_path: Path, peer: pacs.Pacs
) -> None:
    peer.study = {"PatientID": "", "AccessionNumber": ""}
    assert objections_to(tmp_path, peer, ["1.2.3"]) == 0
    peer.study = {"PatientID": "P2"}
    assert objections_to(tmp_path, peer, ["1.2.3"]) == 1


def test_a_study_that_is_there_for_the_former_and_for_the_corrected_patient_keeps_nothing_back(
    tmp_path: Path, peer: pacs.Pacs
) -> None:
    peer.study, peer.former = {"PatientID": "P1"}, {"PatientID": "P0"}
    assert objections_to(tmp_path, peer, ["1.2.3"]) == 0


def test_a_destination_that_does_not_answer_is_asked_for_no_other_study_of_the_batch(
    tmp_path: Path, peer: pacs.Pacs
) -> None:
    peer.find_status = 0xA700
    assert objections_to(tmp_path, peer, ["1.2.3", "1.2.4", "1.2.5"]) == 0
    assert peer.studies_asked_for == 1
