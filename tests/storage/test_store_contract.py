"""One suite over every job store."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import LeaseLostError, TransitionError, UnknownKeyError
from storage.jobs import Decision, Job
from storage.states import DeliveryState, JobState
from storage.store import JobStore
from tests.storage.samples import NOON, after, film, new_job, produced, running, submitted


def delivery_states(store: JobStore, key: str = "k1") -> list[str]:
    return [d.state for d in store.deliveries(key)]


def test_a_received_film_comes_back_as_it_was_given(store: JobStore) -> None:
    number = store.receive(film()).number
    (found,) = store.received(10)
    assert found.number == number
    assert found.received_at == NOON
    assert found.received_at.tzinfo is not None
    assert (found.sop_instance_uid, found.object, found.decision) == ("1.2.3", film().object, "")


def test_the_same_bytes_of_the_same_film_are_recorded_once(store: JobStore) -> None:
    assert store.receive(film()) == store.receive(film())
    assert store.receive(film(digest="b")) != store.receive(film())
    assert len(store.received(10)) == 2


def test_many_senders_of_one_film_at_once_make_one_record(store: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = {r.number for r in pool.map(store.receive, [film()] * 16)}
    assert len(numbers) == 1
    assert len(store.received(10)) == 1


def test_a_film_waits_for_its_decision_and_then_no_more(store: JobStore) -> None:
    first, second = store.receive(film("1.1")), store.receive(film("1.2"))
    assert [f.number for f in store.unrouted(10)] == [first.number, second.number]
    assert [f.number for f in store.unrouted(1)] == [first.number]
    store.route(first.number, Decision(text="not analysed: lateral view"), None)
    assert [f.number for f in store.unrouted(10)] == [second.number]
    assert store.received(10, "1.1")[0].decision == "not analysed: lateral view"
    assert store.jobs(10) == []


def test_a_routed_film_has_its_job_with_every_field(store: JobStore) -> None:
    submitted(store)
    job = store.job("k1")
    assert (job.state, job.attempts, job.error, job.lease) == (JobState.RECEIVED, 0, "", None)
    assert job.results == ("secondary_capture", "structured_report")
    assert job.destinations == ("pacs", "archive")
    assert job.created_at == NOON
    assert store.received(1)[0].job_key == "k1"


def test_a_resend_adds_no_second_job(store: JobStore) -> None:
    running(store)
    number = store.receive(film("1.2.1", "other")).number
    store.route(number, Decision(text="received again", job_key="k1"), new_job("k1"))
    assert [job.state for job in store.jobs(10)] == [JobState.RUNNING]


def test_routing_an_unknown_film_is_refused_and_makes_no_job(store: JobStore) -> None:
    with pytest.raises(UnknownKeyError):
        store.route(99, Decision(text="x", job_key="k1"), new_job("k1"))
    assert store.jobs(10) == []


def test_a_job_is_found_by_the_beginning_of_its_key(store: JobStore) -> None:
    submitted(store, "k12")
    submitted(store, "k13")
    assert store.job("k12").key == "k12"
    for wrong in ("k1", "x", "", "%"):
        with pytest.raises(UnknownKeyError):
            store.job(wrong)


def test_jobs_are_listed_newest_first_and_by_state(store: JobStore) -> None:
    submitted(store, "k1", created_s=0)
    submitted(store, "k2", created_s=5)
    assert [job.key for job in store.jobs(10)] == ["k2", "k1"]
    assert [job.key for job in store.jobs(1)] == ["k2"]
    store.claim("w", NOON, 60)
    assert [job.key for job in store.jobs(10, JobState.RECEIVED)] == ["k2"]
    assert [job.key for job in store.jobs(10, sop_instance_uid="1.2.1")] == ["k1"]


def test_the_oldest_job_is_claimed_first_and_only_once(store: JobStore) -> None:
    submitted(store, "k2", created_s=5)
    submitted(store, "k1", created_s=0)
    first, second = store.claim("w", NOON, 60), store.claim("w", NOON, 60)
    assert first is not None
    assert second is not None
    assert (first.key, second.key) == ("k1", "k2")
    assert (first.state, first.attempts) == (JobState.RUNNING, 1)
    assert first.lease is not None
    assert first.lease.until == after(60)
    assert store.claim("w", NOON, 60) is None


def test_no_two_workers_claim_the_same_job(store: JobStore) -> None:
    for n in range(24):
        submitted(store, f"k{n:02}")

    def claim_all(owner: str) -> list[Job]:
        return list(iter(lambda: store.claim(owner, NOON, 60), None))

    with ThreadPoolExecutor(3) as pool:
        claimed = [job.key for jobs in pool.map(claim_all, "abc") for job in jobs]
    assert sorted(claimed) == [f"k{n:02}" for n in range(24)]


def test_a_heartbeat_keeps_the_lease(store: JobStore) -> None:
    _, token = running(store)
    store.heartbeat("k1", token, after(200))
    assert store.reclaim(after(100), max_attempts=3) == []
    assert store.reclaim(after(201), max_attempts=3) == ["k1"]


def test_a_lapsed_lease_gives_the_job_to_another_and_voids_the_first(store: JobStore) -> None:
    _, old = running(store)
    assert store.reclaim(after(61), max_attempts=3) == ["k1"]
    again = store.claim("other", after(62), 60)
    assert again is not None
    assert again.lease is not None
    assert again.attempts == 2
    for write in (
        lambda: store.heartbeat("k1", old, after(99)),
        lambda: store.produce("k1", old, after(63), [], []),
        lambda: store.reject("k1", old, after(63), "no"),
        lambda: store.fail("k1", old, after(63), "no"),
        lambda: store.release("k1", old, after(63), "no"),
    ):
        with pytest.raises(LeaseLostError):
            write()
    store.produce("k1", again.lease.token, after(64), [], [])
    assert store.job("k1").state is JobState.PRODUCED


def test_a_late_result_writes_nothing_at_all(store: JobStore) -> None:
    from tests.storage.samples import result

    _, token = running(store)
    store.reclaim(after(61), max_attempts=3)
    with pytest.raises(LeaseLostError):
        store.produce("k1", token, after(62), [result("k1", "secondary_capture")], ["pacs"])
    assert store.results("k1") == []
    assert store.deliveries("k1") == []


def test_a_job_that_kills_its_workers_fails_in_the_end(store: JobStore) -> None:
    running(store)
    store.reclaim(after(61), max_attempts=2)
    assert store.job("k1").state is JobState.RECEIVED
    store.claim("w", after(62), 60)
    store.reclaim(after(200), max_attempts=2)
    job = store.job("k1")
    assert job.state is JobState.FAILED
    assert "2 times" in job.error


@pytest.mark.parametrize(
    ("end", "state"),
    [("reject", JobState.REJECTED), ("fail", JobState.FAILED), ("release", JobState.RECEIVED)],
)
def test_a_job_ends_with_its_reason(store: JobStore, end: str, state: JobState) -> None:
    _, token = running(store)
    getattr(store, end)("k1", token, after(1), "constant image")
    job = store.job("k1")
    assert (job.state, job.error, job.lease) == (state, "constant image", None)
    assert job.updated_at == after(1)


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


def test_retry_of_a_failed_job_starts_it_afresh(store: JobStore) -> None:
    _, token = running(store)
    store.fail("k1", token, after(1), "model missing")
    job = store.retry("k1", after(2))
    assert (job.state, job.attempts, job.error) == (JobState.RECEIVED, 0, "")


def test_retry_of_a_refused_delivery_makes_no_result_again(store: JobStore) -> None:
    produced(store)
    for parcel in store.claim_deliveries("pacs", "s", NOON, 60, 10):
        store.refuse(parcel, after(1), "refused")
    job = store.retry("k1", after(2))
    assert job.state is JobState.PRODUCED
    assert set(delivery_states(store)) == {DeliveryState.DUE}


def test_retry_of_what_has_not_failed_is_refused(store: JobStore) -> None:
    submitted(store)
    with pytest.raises(TransitionError, match="nothing of it has failed"):
        store.retry("k1", NOON)
    with pytest.raises(UnknownKeyError):
        store.retry("unknown", NOON)
