"""One suite over every job store: results, their deliveries, and what the operator retries."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from storage import promises
from storage.errors import LeaseLostError, TransitionError, UnknownKeyError
from storage.jobs import Decision, Parcel, Result
from storage.states import DeliveryState, JobState
from storage.store import JobStore
from tests.storage.samples import (
    NOON,
    after,
    guarded_writes,
    kept,
    new_job,
    produced,
    purged,
    result,
    running,
    submitted,
)


def delivery_states(store: JobStore, key: str = "k1") -> list[str]:
    return [d.state for d in store.deliveries(key)]


def test_what_was_produced_is_due_everywhere_in_order(store: JobStore) -> None:
    produced(store)
    assert [r.kind for r in store.results("k1")] == ["secondary_capture", "structured_report"]
    kinds = {r.sop_instance_uid: r.kind for r in store.results("k1")}
    found = [(kinds[d.sop_instance_uid], d.destination) for d in store.deliveries("k1")]
    assert found == [
        ("secondary_capture", "pacs"),
        ("secondary_capture", "archive"),
        ("structured_report", "pacs"),
        ("structured_report", "archive"),
    ]
    assert set(delivery_states(store)) == {DeliveryState.DUE}


def test_due_deliveries_are_claimed_by_destination_and_only_when_their_time_has_come(
    store: JobStore,
) -> None:
    produced(store)
    assert store.claim_deliveries("pacs", "s", after(-1), 60, 10) == []
    parcels = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    assert [p.result.kind for p in parcels] == ["secondary_capture", "structured_report"]
    assert {p.delivery.attempts for p in parcels} == {1}
    assert store.claim_deliveries("pacs", "s", NOON, 60, 10) == []
    assert len(store.claim_deliveries("archive", "s", NOON, 60, 1)) == 1


@pytest.mark.usefixtures("hasty")
def test_no_two_senders_claim_the_same_delivery(store: JobStore) -> None:
    for n in range(12):
        produced(store, f"k{n:02}")

    def claim_all(owner: str) -> list[str]:
        take = partial(store.claim_deliveries, "pacs", owner, NOON, 60, 2)
        return [p.delivery.sop_instance_uid for some in iter(take, []) for p in some]

    with ThreadPoolExecutor(3) as pool:
        claimed = [uid for uids in pool.map(claim_all, "abc") for uid in uids]
    expected = [r.sop_instance_uid for n in range(12) for r in store.results(f"k{n:02}")]
    assert len(expected) == 24
    assert sorted(claimed) == sorted(expected)


def test_words_of_a_peer_that_no_database_holds_are_kept_as_far_as_they_can_be(
    store: JobStore,
) -> None:
    produced(store)
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.refuse(parcel, after(1), "Out of\0 resources\udcff")
    assert store.deliveries("k1")[0].reason == "Out of resources?"


def test_an_attempt_ends_once(store: JobStore) -> None:
    produced(store)
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.delivered(parcel, after(1), "first word")
    store.refuse(parcel, after(2), "second word")
    store.postpone(parcel, after(3), "third word")
    found = store.deliveries("k1")[0]
    assert (found.state, found.reason) == (DeliveryState.DELIVERED, "first word")


def test_each_delivery_goes_its_own_way(store: JobStore) -> None:
    produced(store)
    first, second = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    third, fourth = store.claim_deliveries("archive", "s", NOON, 60, 10)
    store.delivered(first, after(1), "")
    store.postpone(second, after(30), "unreachable")
    store.refuse(third, after(1), "no accepted context")
    store.delivered(fourth, after(1), "coerced")
    assert delivery_states(store) == ["DELIVERED", "REFUSED", "DUE", "DELIVERED"]
    assert [d.reason for d in store.deliveries("k1")] == [
        "",
        "no accepted context",
        "unreachable",
        "coerced",
    ]
    assert store.claim_deliveries("pacs", "s", after(29), 60, 10) == []
    (again,) = store.claim_deliveries("pacs", "s", after(30), 60, 10)
    assert again.delivery.attempts == 2


def test_a_sender_that_died_leaves_its_deliveries_due_and_its_late_word_void(
    store: JobStore,
) -> None:
    produced(store)
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.reclaim(after(61), max_attempts=3)
    (again, _) = store.claim_deliveries("pacs", "s", after(62), 60, 10)
    store.refuse(parcel, after(63), "late word of the first sender")
    assert delivery_states(store)[0] == DeliveryState.SENDING
    store.delivered(again, after(64), "")
    assert delivery_states(store)[0] == DeliveryState.DELIVERED


def test_what_a_dead_process_held_is_free_at_once_and_nobody_elses(store: JobStore) -> None:
    produced(store, "k1")
    store.claim_deliveries("pacs", "node-a/dispatcher", NOON, 600, 10)
    store.claim_deliveries("archive", "node-b/dispatcher", NOON, 600, 10)
    submitted(store, "k2")
    submitted(store, "k3", created_s=1)
    mine, theirs = store.claim("node-a/worker", NOON, 600), store.claim("node-b/worker", NOON, 600)
    assert mine is not None
    assert theirs is not None
    store.abandon("node-a/", after(1))
    assert store.job("k2").state == "RECEIVED"
    assert store.job("k3").state == "RUNNING"
    assert delivery_states(store, "k1") == ["DUE", "SENDING", "DUE", "SENDING"]
    assert mine.lease is not None
    with pytest.raises(LeaseLostError):
        store.produce("k2", mine.lease.token, after(2), [], [])


def test_a_worker_that_was_made_to_stop_costs_its_job_no_attempt(store: JobStore) -> None:
    submitted(store, "k1")
    for number in range(3):
        store.claim(f"node/{number}/worker", NOON, 600)
        store.abandon(f"node/{number}/", after(1))
        assert (store.job("k1").state, store.job("k1").attempts) == (JobState.RECEIVED, 0)
    again = store.claim("node/8/worker", after(2), 600)
    assert again is not None
    assert again.lease is not None
    assert (again.attempts, again.lease.token) == (1, 4)
    store.reclaim(after(3), max_attempts=2, dead="node/8/")
    assert store.job("k1").state is JobState.RECEIVED


def test_what_a_dead_worker_held_is_free_before_its_lease_ends_unless_it_killed_too_many(
    store: JobStore,
) -> None:
    produced(store, "k1")
    store.claim_deliveries("pacs", "node/7/dispatcher", NOON, 600, 10)
    store.claim_deliveries("archive", "node/77/dispatcher", NOON, 600, 10)
    submitted(store, "k2")
    store.claim("node/7/worker", NOON, 600)
    assert store.reclaim(after(1), max_attempts=2, dead="node/7/") == ["k2"]
    assert store.job("k2").state == "RECEIVED"
    assert delivery_states(store, "k1") == ["DUE", "SENDING", "DUE", "SENDING"]
    store.claim("node/8/worker", after(2), 600)
    store.reclaim(after(3), max_attempts=2, dead="node/8/")
    assert store.job("k2").state == "FAILED"


def test_retry_of_a_failed_job_starts_it_afresh(store: JobStore) -> None:
    _, token = running(store)
    store.fail("k1", token, after(1), "model missing")
    job = store.retry("k1", after(2))
    assert (job.state, job.attempts, job.error) == (JobState.RECEIVED, 0, "")
    again = store.claim("w", after(3), 60)
    assert again is not None
    assert again.lease is not None
    assert again.lease.token > token
    for write in guarded_writes(store, "k1", token):
        with pytest.raises(LeaseLostError):
            write()


def test_retry_of_a_refused_delivery_touches_nothing_that_did_not_fail(store: JobStore) -> None:
    produced(store)
    for parcel in store.claim_deliveries("pacs", "s", NOON, 60, 10):
        store.refuse(parcel, after(1), "refused")
    for parcel in store.claim_deliveries("archive", "s", NOON, 60, 10):
        store.delivered(parcel, after(1), "stored")
    made = store.results("k1")
    job = store.retry("k1", after(2))
    assert (job.state, job.attempts) == (JobState.PRODUCED, 1)
    assert store.results("k1") == made
    assert delivery_states(store) == ["DUE", "DELIVERED", "DUE", "DELIVERED"]
    (again, _) = store.claim_deliveries("pacs", "s", after(2), 60, 10)
    assert (again.delivery.attempts, again.delivery.reason) == (2, "")


@pytest.mark.parametrize("end", ["", "run", "produce", "reject"])
def test_retry_of_what_has_not_failed_is_refused(store: JobStore, end: str) -> None:
    submitted(store)
    if end:
        job = store.claim("w", NOON, 60)
        assert job is not None
        assert job.lease is not None
        if end == "produce":
            store.produce("k1", job.lease.token, NOON, [result("k1", "seg")], ["pacs"])
        if end == "reject":
            store.reject("k1", job.lease.token, NOON, "lateral")
    before = store.job("k1")
    with pytest.raises(TransitionError, match="nothing of it has failed"):
        store.retry("k1", after(1))
    assert store.job("k1") == before


def remade(key: str, kind: str) -> Result:
    """The same result, made again: other bytes under the same UID."""
    return replace(result(key, kind), object=kept(f"again-{kind[:5]}"))


def refused_at_pacs(store: JobStore) -> list[str]:
    """Both results were refused at pacs and reached the archive; their UIDs."""
    produced(store)
    for parcel in store.claim_deliveries("pacs", "s", NOON, 60, 10):
        store.refuse(parcel, after(1), "gone", "FILE")
    for parcel in store.claim_deliveries("archive", "s", NOON, 60, 10):
        store.delivered(parcel, after(1), "stored")
    return [made.sop_instance_uid for made in store.results("k1")]


def made_again(store: JobStore, *made: Result, quarantined: dict[str, str] | None = None) -> None:
    job = store.claim("w", after(3), 60)
    assert job is not None
    assert job.lease is not None
    token = job.lease.token
    store.produce("k1", token, after(4), made, job.destinations, {}, quarantined or {})


def test_a_lost_result_is_made_again_for_those_who_do_not_have_it(store: JobStore) -> None:
    _, report = refused_at_pacs(store)
    job = store.retry("k1", after(2), lost=[report])
    assert (job.state, job.attempts, job.error) == (JobState.RECEIVED, 0, "")
    assert delivery_states(store) == ["DUE", "DELIVERED", "REFUSED", "DELIVERED"]
    picture = store.results("k1")[0]
    again = remade("k1", "structured_report")
    made_again(store, picture, again)
    assert store.job("k1").state is JobState.PRODUCED
    assert store.results("k1") == [picture, again]
    assert delivery_states(store) == ["DUE", "DELIVERED", "DUE", "DELIVERED"]
    parcels = store.claim_deliveries("pacs", "s", after(5), 60, 10)
    assert [p.result.object for p in parcels] == [picture.object, again.object]


def test_what_waits_for_a_lost_result_waits_on_while_it_is_made_again(store: JobStore) -> None:
    produced(store)
    store.hold("archive", after(1))
    uids = [made.sop_instance_uid for made in store.results("k1")]
    assert store.retry("k1", after(2), lost=uids).state is JobState.RECEIVED
    made_again(store, *(remade("k1", made.kind) for made in store.results("k1")))
    assert delivery_states(store) == ["DUE", "HELD", "DUE", "HELD"]


def test_a_result_that_is_made_again_with_a_fault_is_sent_nowhere(store: JobStore) -> None:
    uids = refused_at_pacs(store)
    store.retry("k1", after(2), lost=uids)
    again = [remade("k1", made.kind) for made in store.results("k1")]
    made_again(store, *again, quarantined={"structured_report": "no UID"})
    assert delivery_states(store) == ["DUE", "DELIVERED", "QUARANTINED", "DELIVERED"]
    assert [d.reason for d in store.deliveries("k1")][2] == "no UID"


def test_a_lost_result_that_everybody_has_is_not_made_again(store: JobStore) -> None:
    produced(store)
    for place in ("pacs", "archive"):
        for parcel in store.claim_deliveries(place, "s", NOON, 60, 10):
            store.delivered(parcel, after(1), "stored")
    store.commit("pacs", [made.sop_instance_uid for made in store.results("k1")], after(1))
    before = store.job("k1")
    with pytest.raises(TransitionError, match="nothing of it has failed"):
        store.retry("k1", after(2), lost=[made.sop_instance_uid for made in store.results("k1")])
    assert store.job("k1") == before


def test_what_was_left_out_is_said_until_it_is_made(store: JobStore) -> None:
    _, token = running(store)
    picture, report = (result("k1", kind) for kind in ("secondary_capture", "structured_report"))
    words = "left out: structured_report"
    store.produce("k1", token, NOON, [picture], ["pacs"], left_out=words)
    assert (store.job("k1").state, store.job("k1").error) == (JobState.PRODUCED, words)
    for parcel in store.claim_deliveries("pacs", "s", NOON, 60, 10):
        store.delivered(parcel, after(1), "")
    job = store.retry("k1", after(2))
    assert (job.state, job.error) == (JobState.RECEIVED, words)
    claimed = store.claim("w", after(3), 60)
    assert claimed is not None
    assert claimed.lease is not None
    assert claimed.error == words
    store.produce("k1", claimed.lease.token, after(4), [picture, report], ["pacs"])
    assert (store.job("k1").error, delivery_states(store)) == ("", ["DELIVERED", "DUE"])


def test_a_lost_note_is_made_again(store: JobStore) -> None:
    _, token = running(store)
    store.reject("k1", token, NOON, "too dark", [result("k1", "note")], ["pacs"])
    (parcel,) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.refuse(parcel, after(1), "gone", "FILE")
    store.retry("k1", after(2), lost=[parcel.result.sop_instance_uid])
    job = store.claim("w", after(3), 60)
    assert job is not None
    assert job.lease is not None
    again = remade("k1", "note")
    store.reject("k1", job.lease.token, after(4), "too dark", [again], ["pacs"])
    assert (store.job("k1").state, store.results("k1")) == (JobState.REJECTED, [again])
    assert delivery_states(store) == ["DUE"]


def test_a_lost_result_of_a_recalled_model_is_not_made_again(store: JobStore) -> None:
    uids = refused_at_pacs(store)
    store.retract(result("k1", "rejection_note"), ["archive"], after(2), "recalled")
    with pytest.raises(TransitionError):
        store.retry("k1", after(3), lost=uids)


def test_a_lost_note_of_a_recall_is_made_again_by_another_recall(store: JobStore) -> None:
    produced(store)
    note = result("k1", "rejection_note")
    assert store.retract(note, ["pacs"], after(1), "recalled")
    (parcel,) = store.claim_deliveries("pacs", "s", after(2), 60, 10)
    store.refuse(parcel, after(3), "gone", "FILE")
    again = replace(note, object=kept("again"))
    assert not store.retract(again, ["pacs"], after(4), "recalled")
    assert store.results("k1")[-1] == again
    (parcel,) = store.claim_deliveries("pacs", "s", after(5), 60, 10)
    assert parcel.result == again


def test_a_purged_result_that_is_made_again_is_known(store: JobStore) -> None:
    produced(store)
    for place in ("pacs", "archive"):
        for parcel in store.claim_deliveries(place, "s", NOON, 60, 10):
            store.delivered(parcel, after(1), "stored")
    purged(store, *store.results("k1"))
    clinic = replace(new_job(), promised={"clinic": ("secondary_capture",)})
    store.route(1, Decision(text="received again", job_key="k1"), clinic)
    again = [remade("k1", made.kind) for made in store.results("k1")]
    made_again(store, *again)
    names = [made.object.name for made in again]
    assert store.unknown([*names, "results/other.dcm"]) == ["results/other.dcm"]


def test_retry_of_an_unknown_job_is_refused(store: JobStore) -> None:
    with pytest.raises(UnknownKeyError):
        store.retry("unknown", NOON)


def test_a_lease_that_is_renewed_holds_and_what_comes_after_its_end_is_told(
    store: JobStore,
) -> None:
    produced(store)
    (first, second) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.claim_deliveries("archive", "s", NOON, 60, 10)
    assert store.renew_deliveries([first, second], after(120)) == 2
    store.reclaim(after(100), 3)
    states = [(d.destination, str(d.state)) for d in store.deliveries("k1")]
    assert sorted(states) == [("archive", "DUE")] * 2 + [("pacs", "SENDING")] * 2
    assert store.delivered(first, after(100), "", "0000") is True
    store.reclaim(after(121), 3)
    assert store.delivered(second, after(122), "", "0000") is False
    assert store.postpone(second, after(122), "busy") is False
    assert store.refuse(second, after(122), "no") is False
    assert store.renew_deliveries([first, second], after(999)) == 0


def lost_while_made_again(store: JobStore) -> tuple[Parcel, Callable[[], None]]:
    """A result on its way to pacs whose file a worker has in hand, and how that ends."""
    produced(store)
    made, _ = store.results("k1")
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 600, 10)
    assert parcel.result == made
    store.retry("k1", after(1), [made.sop_instance_uid])
    job = store.claim("w", after(2), 600)
    assert job is not None
    assert job.lease is not None
    again = replace(made, object=kept("again"))
    return parcel, partial(store.produce, "k1", job.lease.token, after(3), [again], ["pacs"])


def test_a_lost_result_is_refused_until_it_is_made_again(store: JobStore) -> None:
    parcel, produce = lost_while_made_again(store)
    assert store.refuse_lost(parcel, after(2), "FILE", lambda _: True)
    lost = store.deliveries("k1")[0]
    assert (lost.state, lost.reason, lost.status) == (DeliveryState.REFUSED, promises.LOST, "FILE")
    assert not store.refuse_lost(parcel, after(2), "FILE", lambda _: True)
    produce()
    assert delivery_states(store)[0] == DeliveryState.DUE


def test_a_lost_result_that_was_made_again_meanwhile_is_due(store: JobStore) -> None:
    parcel, produce = lost_while_made_again(store)
    produce()
    lost = parcel.result.object
    assert store.refuse_lost(parcel, after(4), "FILE", lambda result: result.object == lost)
    assert delivery_states(store)[0] == DeliveryState.DUE
    (again,) = [
        p
        for p in store.claim_deliveries("pacs", "s", after(4), 60, 10)
        if p.result.sop_instance_uid == parcel.result.sop_instance_uid
    ]
    assert (again.result.object, again.delivery.attempts) == (kept("again"), 2)


def test_who_makes_a_lost_result_again_waits_while_it_is_refused(store: JobStore) -> None:
    parcel, produce = lost_while_made_again(store)
    worker = threading.Thread(target=produce)

    def is_lost(_: Result) -> bool:
        worker.start()
        worker.join(0.5)  # it would have ended, or it waits
        return True

    assert store.refuse_lost(parcel, after(4), "FILE", is_lost)
    worker.join()
    assert delivery_states(store)[0] == DeliveryState.DUE


def test_what_a_sender_could_not_record_is_reclaimed_however_much_else_it_sends(
    store: JobStore,
) -> None:
    produced(store)
    store.claim_deliveries("pacs", "s", NOON, 60, 1)  # its answer was never written down
    (going,) = store.claim_deliveries("pacs", "s", NOON, 60, 1)
    assert store.renew_deliveries([going], after(600)) == 1
    store.reclaim(after(61), 3)
    assert [str(d.state) for d in store.deliveries("k1") if d.destination == "pacs"] == [
        "DUE",
        "SENDING",
    ]
