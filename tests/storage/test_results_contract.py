"""Who gets which result, what is held back, and how results are taken back."""

import pytest

from storage.errors import TransitionError
from storage.jobs import Delivery
from storage.states import DeliveryState, JobState
from storage.store import JobStore
from tests.storage.samples import NOON, after, produced, result, running

SC, SR, NOTE = "secondary_capture", "structured_report", "rejection_note"


def by_place(store: JobStore, key: str = "k1") -> dict[tuple[str, str], Delivery]:
    """The deliveries of a job by kind and destination."""
    kinds = {made.sop_instance_uid: made.kind for made in store.results(key)}
    return {(kinds[d.sop_instance_uid], d.destination): d for d in store.deliveries(key)}


def test_a_destination_gets_its_own_kinds_where_it_has_any(store: JobStore) -> None:
    _, token = running(store)
    made = [result("k1", SC), result("k1", SR)]
    store.produce("k1", token, NOON, made, ["pacs", "archive"], {"archive": [SR]})
    assert list(by_place(store)) == [(SC, "pacs"), (SR, "pacs"), (SR, "archive")]


def test_a_quarantined_kind_is_kept_and_counted_and_not_due(store: JobStore) -> None:
    _, token = running(store)
    made = [result("k1", SC), result("k1", SR)]
    store.produce("k1", token, NOON, made, ["pacs"], {}, {SR: "no UID"})
    found = by_place(store)
    assert found[SC, "pacs"].state is DeliveryState.DUE
    assert found[SR, "pacs"].state is DeliveryState.QUARANTINED
    assert found[SR, "pacs"].reason == "no UID"
    parcels = store.claim_deliveries("pacs", "me", after(1), 60, limit=9)
    assert [parcel.result.kind for parcel in parcels] == [SC]


def test_a_rejected_job_may_tell_why(store: JobStore) -> None:
    _, token = running(store)
    store.reject("k1", token, NOON, "too dark", [result("k1", "not_analysed")], ["pacs"])
    assert (store.job("k1").state, store.job("k1").error) == (JobState.REJECTED, "too dark")
    assert by_place(store)["not_analysed", "pacs"].state is DeliveryState.DUE


def test_a_note_with_a_fault_is_quarantined(store: JobStore) -> None:
    _, token = running(store)
    note = result("k1", "not_analysed")
    store.reject("k1", token, NOON, "too dark", [note], ["pacs"], {"not_analysed": "no UID"})
    made = by_place(store)["not_analysed", "pacs"]
    assert (made.state, made.reason) == (DeliveryState.QUARANTINED, "no UID")


def test_a_retracted_job_has_a_note_due_and_nothing_else(store: JobStore) -> None:
    produced(store)
    (sent,) = store.claim_deliveries("pacs", "me", after(1), 60, limit=1)
    store.delivered(sent, after(2), "")
    assert store.retract(result("k1", NOTE), ["pacs", "archive"], after(3), "recalled")
    found = by_place(store)
    assert found[sent.result.kind, "pacs"].state is DeliveryState.DELIVERED
    waiting = [d for (kind, _), d in found.items() if kind != NOTE and d.state != "DELIVERED"]
    assert {(d.state, d.reason) for d in waiting} == {(DeliveryState.REFUSED, "recalled")}
    assert [d.state for (kind, _), d in found.items() if kind == NOTE] == ["DUE", "DUE"]
    assert store.results("k1")[-1].kind == NOTE


def test_what_is_held_or_on_its_way_is_not_sent_after_a_recall(store: JobStore) -> None:
    produced(store)
    (sending,) = store.claim_deliveries("pacs", "me", after(1), 60, limit=1)
    store.hold("archive", after(1))
    assert store.retract(result("k1", NOTE), ["pacs"], after(2), "recalled")
    store.postpone(sending, after(3), "busy")
    store.release_destination("archive", after(3))
    for place in ("pacs", "archive"):
        parcels = store.claim_deliveries(place, "me", after(9), 60, limit=9)
        assert {parcel.result.kind for parcel in parcels} == ({NOTE} if place == "pacs" else set())
    others = {d.state for (kind, _), d in by_place(store).items() if kind != NOTE}
    assert others == {DeliveryState.REFUSED}


def test_an_operator_s_retry_after_a_recall_sends_the_note_alone(store: JobStore) -> None:
    produced(store)
    store.retract(result("k1", NOTE), ["pacs"], after(2), "recalled")
    with pytest.raises(TransitionError):
        store.retry("k1", after(3))
    (note,) = store.claim_deliveries("pacs", "me", after(3), 60, limit=9)
    store.refuse(note, after(4), "no")
    store.retry("k1", after(5))
    (again,) = store.claim_deliveries("pacs", "me", after(6), 60, limit=9)
    assert again.result.kind == NOTE


def test_a_job_is_retracted_once(store: JobStore) -> None:
    produced(store)
    note = result("k1", NOTE)
    assert store.retract(note, ["pacs"], after(3), "recalled")
    before = store.deliveries("k1")
    assert not store.retract(note, ["pacs"], after(4), "recalled again")
    assert store.deliveries("k1") == before
