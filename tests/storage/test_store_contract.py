"""One suite over every job store: films, decisions, jobs and leases."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta, timezone
from itertools import pairwise

import pytest

from storage.errors import LeaseLostError, UnknownKeyError
from storage.jobs import Decision, Job, JobCount, NewReceived, Notice, is_owed
from storage.promises import NOTE
from storage.states import JOB_TRANSITIONS, JobState
from storage.store import JobStore
from storage.words import GONE, OURS
from tests.storage.samples import (
    NOON,
    after,
    came,
    film,
    from_clinic,
    guarded_writes,
    kept,
    left_behind,
    new_job,
    produced,
    result,
    running,
    submitted,
)


def test_a_received_film_comes_back_as_it_was_given(store: JobStore) -> None:
    number = store.receive(film()).number
    (found,) = store.received(10)
    assert found.number == number
    assert found.received_at == NOON
    assert found.received_at.tzinfo is not None
    assert (found.sop_instance_uid, found.object, found.decision) == ("1.2.3", film().object, "")


def test_the_same_bytes_of_the_same_film_are_recorded_once(store: JobStore) -> None:
    assert store.receive(film()).number == store.receive(film()).number
    assert store.receive(film(digest="b")).number != store.receive(film()).number
    assert len(store.received(10)) == 2


@pytest.mark.usefixtures("hasty")
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


def test_films_that_are_not_at_their_end_or_came_to_a_bad_one_are_unsettled(
    store: JobStore,
) -> None:
    def unsettled(since_s: float) -> list[str]:
        return [film.sop_instance_uid for film in store.unsettled(after(since_s))]

    store.receive(film("1.2.0", "undecided"))
    _, token = running(store, "k1")
    store.fail("k1", token, after(5), "model missing")
    for key in ("k2", "k3"):
        produced(store, key)
    assert unsettled(5) == ["1.2.3", "1.2.2", "1.2.1", "1.2.0"]
    assert unsettled(6) == ["1.2.3", "1.2.2", "1.2.0"]
    for place in ("pacs", "archive"):
        for parcel in store.claim_deliveries(place, "s", NOON, 60, 10):
            if parcel.result.job_key == "k2":
                store.refuse(parcel, after(7), "no")
            else:
                store.delivered(parcel, after(7), "", promised=place == "pacs")
    assert unsettled(7) == ["1.2.3", "1.2.2", "1.2.0"]
    assert unsettled(8) == ["1.2.3", "1.2.0"]
    store.commit("pacs", [made.sop_instance_uid for made in store.results("k3")], after(8))
    assert unsettled(8) == ["1.2.0"]


def test_a_film_whose_decision_is_no_end_of_it_is_unsettled_until_it_comes_again(
    store: JobStore,
) -> None:
    for uid, decision in (("1.2.1", f"{OURS} (KeyError)"), ("1.2.2", GONE), ("1.2.3", "lateral")):
        number = store.receive(film(uid, digest=uid)).number
        store.route(number, Decision(text=decision), None)
    assert [film.sop_instance_uid for film in store.unsettled(after(99))] == ["1.2.2", "1.2.1"]
    again = store.receive(replace(film("1.2.2", digest="other"), received_at=after(9))).number
    assert [film.sop_instance_uid for film in store.unsettled(after(99))][1:] == ["1.2.2", "1.2.1"]
    store.route(again, Decision(text="lateral"), None)
    assert [film.sop_instance_uid for film in store.unsettled(after(99))] == ["1.2.1"]


@pytest.mark.parametrize("decision", [f"{OURS} (KeyError)", GONE])
def test_what_is_owed_a_sender_is_not_ended_by_another_s_film(
    store: JobStore, decision: str
) -> None:
    """The other's may be refused by a rule of its own, or go elsewhere."""

    def ended(new: NewReceived) -> None:
        number = store.receive(replace(new, received_at=after(9))).number
        store.route(number, Decision(text="not analysed: no rule matches"), None)

    number = store.receive(film()).number
    store.route(number, Decision(text=decision), None)
    ended(from_clinic())
    ended(from_clinic(digest="other"))
    owed = store.unsettled(after(99))
    assert [film.number for film in owed] == [number]
    assert is_owed(owed[0], lambda: store.received(9, "1.2.3"))
    ended(film(digest="other"))
    assert store.unsettled(after(99)) == []
    assert not is_owed(owed[0], lambda: store.received(9, "1.2.3"))


def test_what_was_no_judgement_of_a_film_is_taken_back(store: JobStore) -> None:
    """Also of one whose file was gone: another sender's copy may have brought it back."""
    decisions = {"1.2.1": f"{OURS} (KeyError)", "1.2.2": GONE, "1.2.3": "lateral"}
    for uid, decision in decisions.items():
        number = store.receive(film(uid, digest=uid)).number
        store.route(number, Decision(text=decision), None)
    assert store.decide_again(after(9)) == 2
    again = store.unrouted(10)
    assert [film.sop_instance_uid for film in again] == ["1.2.1", "1.2.2"]
    assert again[0].arrived_at == after(9)  # its results have their time once more
    assert store.decide_again(after(9)) == 0


def test_what_cannot_be_decided_about_yet_is_left_as_it_came(store: JobStore) -> None:
    for uid in ("1.2.1", "1.2.2", "1.2.3"):
        store.route(store.receive(film(uid)).number, Decision(text=GONE), None)
    there = {film.sop_instance_uid: film.number for film in store.owed()}
    assert there.keys() == {"1.2.1", "1.2.2", "1.2.3"}
    store.route(store.receive(film("1.2.3")).number, Decision(text="lateral"), None)
    # What has come to an end since it was asked for stays there.
    assert store.decide_again(after(9), {there["1.2.2"], there["1.2.3"]}) == 1
    assert [film.sop_instance_uid for film in store.unrouted(9)] == ["1.2.2"]
    (left,) = store.received(9, "1.2.1")
    assert (left.decision, left.arrived_at) == (GONE, NOON)


def broken_and_sent_again(store: JobStore, decision: str, after_s: float = 9) -> tuple[int, int]:
    """A film that a fault of ours kept from being judged, and what its sender sent after it."""
    first = store.receive(film()).number
    store.route(first, Decision(text=f"{OURS} (KeyError)"), None)
    second = store.receive(replace(film(digest="corrected"), received_at=after(after_s))).number
    store.route(second, Decision(text=decision), None)
    return first, second


@pytest.mark.parametrize("after_s", [0, 9])
def test_what_has_come_to_an_end_since_is_not_decided_about_again(
    store: JobStore, after_s: float
) -> None:
    broken_and_sent_again(store, "lateral", after_s)
    assert store.decide_again(after(99)) == 0
    assert store.unrouted(10) == []
    assert store.unsettled(after(99)) == []


def test_what_is_decided_about_again_stays_in_its_order(store: JobStore) -> None:
    """Else the end of the one that came last would be no end of the one before it."""
    first, second = broken_and_sent_again(store, f"{OURS} (KeyError)")
    owed = store.unsettled(after(99))
    assert [film.number for film in owed] == [second, first]  # neither is the other's end
    assert all(is_owed(film, lambda: owed) for film in owed)
    assert store.decide_again(after(99)) == 2
    store.route(first, Decision(text=f"{OURS} (KeyError)"), None)
    store.route(second, Decision(text="lateral"), None)
    assert store.unsettled(after(99)) == []


@pytest.mark.parametrize("decision", ["analysed", ""], ids=["decided", "undecided"])
@pytest.mark.parametrize("later", [film(digest="b"), from_clinic(digest="b")])
def test_what_came_before_other_bytes_of_its_uid_does_not_come_again_as_their_correction(
    store: JobStore, later: NewReceived, decision: str
) -> None:
    """By whomever they came; that it is owed its sender a decision stays in every account."""
    first = came(store, film(), 0, f"{OURS} (KeyError)")
    came(store, later, 9, decision)
    assert store.decide_again(after(99)) == 0
    assert store.received(9)[-1].arrived_at == NOON
    is_ended = decision and later.calling_ae_title == "CR1"
    assert (first in [film.number for film in store.unsettled(after(99))]) is not is_ended


def test_what_came_after_other_bytes_of_its_uid_or_before_the_same_comes_again(
    store: JobStore,
) -> None:
    came(store, from_clinic(digest="b"), 0, "analysed")
    owed = came(store, film(), 1, f"{OURS} (KeyError)")
    came(store, from_clinic(), 2, "analysed")
    assert store.decide_again(after(99)) == 1
    assert [film.number for film in store.unrouted(9)] == [owed]


def test_films_of_several_senders_that_are_owed_come_again_in_the_order_of_their_arrival(
    store: JobStore,
) -> None:
    """The first came once more, and holds: it is decided about last."""
    first = came(store, film(), 0, f"{OURS} (KeyError)")
    second = came(store, from_clinic(digest="b"), 1, f"{OURS} (KeyError)")
    came(store, film(), 2, f"{OURS} (KeyError)")
    assert store.decide_again(after(99)) == 2
    assert [film.number for film in store.unrouted(9)] == [second, first]


def test_a_film_that_came_again_waits_behind_those_that_came_before_that(store: JobStore) -> None:
    first, second = came(store, film(), 0), came(store, film(digest="b"), 1)
    came(store, film(), 2)
    assert [film.number for film in store.unrouted(9)] == [second, first]
    assert [film.number for film in store.unrouted(1)] == [second]


def test_a_film_is_unsettled_while_a_job_goes_on_that_it_has_left(store: JobStore) -> None:
    for key in ("k1", "k2"):
        produced(store, key)
        left_behind(store, key)
    submitted(store, "k3")
    left_behind(store, "k3")
    for place in ("pacs", "archive"):
        for parcel in store.claim_deliveries(place, "s", NOON, 60, 10):
            if parcel.result.job_key == "k1":
                store.delivered(parcel, NOON, "", promised=False)
    assert [film.sop_instance_uid for film in store.unsettled(after(9))] == ["1.2.3", "1.2.2"]


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


def test_a_whole_key_is_found_among_longer_ones_and_its_case_counts(store: JobStore) -> None:
    for key in ("a1", "a12", "A1"):
        store.route(store.receive(film(digest=key)).number, Decision(text="x"), new_job(key))
    assert store.job("a1").key == "a1"
    assert store.job("A").key == "A1"


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock is set to another zone than UTC."""
    with monkeypatch.context() as clock:
        clock.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_a_time_of_another_zone_comes_back_as_the_same_moment(store: JobStore) -> None:
    madrid = timezone(timedelta(hours=2))
    store.receive(replace(film(), received_at=NOON.astimezone(madrid)))
    (found,) = store.received(10)
    assert found.received_at == NOON


@pytest.mark.usefixtures("hasty")
def test_two_routers_of_one_film_make_one_job(store: JobStore) -> None:
    number = store.receive(film()).number

    def route(_: int) -> None:
        store.route(number, Decision(text="analysed", job_key="k1"), new_job("k1"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(route, range(8)))
    assert [job.key for job in store.jobs(10)] == ["k1"]


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


@pytest.mark.usefixtures("hasty")
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
    for write in guarded_writes(store, "k1", old):
        with pytest.raises(LeaseLostError):
            write()
    store.produce("k1", again.lease.token, after(64), [], [])
    assert store.job("k1").state is JobState.PRODUCED


@pytest.mark.parametrize("end", ["produce", "reject", "fail", "release"])
def test_a_job_that_has_ended_takes_no_more_words_of_its_worker(store: JobStore, end: str) -> None:
    _, token = running(store)
    last = ([], []) if end == "produce" else ("said",)
    getattr(store, end)("k1", token, after(1), *last)
    before = store.job("k1")
    for write in guarded_writes(store, "k1", token):
        with pytest.raises(LeaseLostError):
            write()
    assert store.job("k1") == before
    assert store.results("k1") == []


def test_a_job_that_is_not_there_is_held_by_nobody(store: JobStore) -> None:
    for write in guarded_writes(store, "k1", 1):
        with pytest.raises(LeaseLostError):
            write()


def test_every_step_of_a_job_can_be_taken(store: JobStore) -> None:
    taken = set()
    for number, end in enumerate(("produce", "reject", "fail", "release")):
        key = f"k{number}"
        submitted(store, key)
        states = [store.job(key).state]
        job = store.claim("w", NOON, 60)
        assert job is not None
        assert job.lease is not None
        made = [result(key, "secondary_capture")]
        last = {"produce": (made, ["pacs"]), "reject": ("said", made, ["pacs"])}.get(end, ("said",))
        states.append(store.job(key).state)
        getattr(store, end)(key, job.lease.token, NOON, *last)
        states.append(store.job(key).state)
        if end != "release":
            lost = [one.sop_instance_uid for one in made]
            states.append(store.retry(key, NOON, lost).state)
            store.claim("w", NOON, 60)
        taken |= set(pairwise(states))
    assert taken == JOB_TRANSITIONS


def test_a_late_result_writes_nothing_at_all(store: JobStore) -> None:
    _, token = running(store)
    store.reclaim(after(61), max_attempts=3)
    with pytest.raises(LeaseLostError):
        store.produce("k1", token, after(62), [result("k1", "secondary_capture")], ["pacs"])
    assert store.results("k1") == []
    assert store.deliveries("k1") == []


def test_a_result_that_another_job_has_is_refused_and_nothing_is_written(store: JobStore) -> None:
    produced(store, "k1")
    _, token = running(store, "k2")
    stolen = [result("k2", "fresh"), replace(store.results("k1")[0], job_key="k2")]
    with pytest.raises(ValueError, match=r"sop_instance_uid|pk_results"):
        store.produce("k2", token, after(1), stolen, ["pacs"])
    assert store.job("k2").state is JobState.RUNNING
    assert store.results("k2") == []


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


def test_what_was_released_is_no_attempt_and_waits_behind_the_others(store: JobStore) -> None:
    _, token = running(store)
    submitted(store, "k2", created_s=5)
    store.release("k1", token, after(10), "the disk is full")
    assert store.job("k1").attempts == 0
    claims = [store.claim("w", after(11), 60) for _ in range(2)]
    assert [(job.key, job.error) for job in claims if job] == [
        ("k2", ""),
        ("k1", "the disk is full"),
    ]


def test_a_film_that_is_sent_again_after_a_no_is_decided_anew(store: JobStore) -> None:
    sent = film(uid="1.2.9", digest="d")
    first = store.receive(sent)
    store.route(first.number, Decision(text="not analysed: no rule matches"), None)
    assert store.unrouted(10) == []
    again = store.receive(sent)
    assert (again.number, again.decision) == (first.number, "")
    assert [waiting.number for waiting in store.unrouted(10)] == [first.number]


def test_a_film_that_is_sent_again_after_its_job_was_made_is_decided_anew_and_keeps_it(
    store: JobStore,
) -> None:
    """A rule may promise more than it did."""
    submitted(store)
    again = store.receive(film(uid="1.2.1", digest="k1"))
    assert (again.decision, again.job_key) == ("", "k1")
    assert store.unrouted(10) == [again]


COME_TO_NOTHING = pytest.mark.parametrize("end", ["reject", "fail"])


@COME_TO_NOTHING
def test_a_film_that_is_sent_again_after_its_job_came_to_nothing_is_decided_anew(
    store: JobStore, end: str
) -> None:
    _, token = running(store)
    getattr(store, end)("k1", token, after(1), "the file is damaged")
    again = store.receive(film(uid="1.2.1", digest="k1"))
    assert (again.decision, again.job_key) == ("", "")
    assert [waiting.number for waiting in store.unrouted(10)] == [again.number]


@COME_TO_NOTHING
def test_a_job_that_came_to_nothing_begins_afresh_with_the_film_that_is_routed_to_it(
    store: JobStore, end: str
) -> None:
    _, token = running(store)
    getattr(store, end)("k1", token, after(1), "cut short")
    number = store.receive(film("1.2.1", "whole")).number
    anew = new_job("k1", created_s=5, uid="1.2.1")
    whole = replace(anew, object=kept("whole"), destinations=("archive",))
    store.route(number, Decision(text="anew", job_key="k1"), whole)
    (job,) = store.jobs(10)
    assert (job.state, job.attempts, job.error, job.lease) == (JobState.RECEIVED, 0, "", None)
    assert (job.object, job.destinations) == (kept("whole"), ("archive",))
    assert (job.created_at, job.updated_at) == (after(5), after(5))
    claimed = store.claim("w", after(6), 60)
    assert claimed is not None
    assert claimed.lease is not None
    with pytest.raises(LeaseLostError):  # by who failed before
        store.heartbeat("k1", token, after(99))
    store.produce("k1", claimed.lease.token, after(7), [result("k1", "picture")], ["archive"])


@pytest.mark.parametrize(("kind", "created_s"), [("picture", 0), (NOTE, 5)])
def test_a_job_that_begins_afresh_is_as_old_as_the_results_that_it_has(
    store: JobStore, kind: str, created_s: float
) -> None:
    """Results made again are the same bytes, and say when; a note speaks of another time."""
    _, token = running(store)
    made = result("k1", kind)
    store.produce("k1", token, after(1), [made], ["archive"])
    store.retry("k1", after(2), [made.sop_instance_uid])
    again = store.claim("w", after(3), 60)
    assert again is not None
    assert again.lease is not None
    store.fail("k1", again.lease.token, after(4), "the kept file is gone")
    number = store.receive(film("1.2.1", "k1")).number
    store.route(number, Decision(text="anew", job_key="k1"), new_job("k1", 5, "1.2.1"))
    (job,) = store.jobs(10, JobState.RECEIVED)
    assert (job.created_at, job.updated_at) == (after(created_s), after(5))


@pytest.mark.parametrize(
    "end",
    [
        lambda store, token: store.reject("k1", token, after(1), "cut short"),
        lambda store, token: store.fail("k1", token, after(1), "damaged"),
        lambda store, _: store.reclaim(after(61), max_attempts=1),
    ],
    ids=["reject", "fail", "reclaim"],
)
def test_where_a_job_comes_to_nothing_films_that_came_to_it_later_are_undecided(
    store: JobStore, end: Callable[[JobStore, int], object]
) -> None:
    """Each once, else two that both fail would take turns for ever."""
    numbers = [store.receive(film("1.2.1", name)).number for name in ("earlier", "its", "later")]
    job = new_job(uid="1.2.1")

    def claimed(number: int, name: str) -> int:
        made = replace(job, object=kept(name))
        store.route(number, Decision(text="analysed", job_key="k1"), made)
        found = store.claim("w", NOON, 60)
        assert found is not None
        assert found.lease is not None
        return found.lease.token

    store.fail("k1", claimed(numbers[0], "earlier"), NOON, "damaged")
    token = claimed(numbers[1], "its")
    store.route(numbers[2], Decision(text="received again", job_key="k1"), job)
    end(store, token)
    assert [film.number for film in store.unrouted(9)] == numbers[2:]


def test_a_film_is_not_put_to_a_job_that_has_just_come_to_nothing(store: JobStore) -> None:
    _, token = running(store)
    number = store.receive(film("1.2.1", "later")).number
    store.fail("k1", token, after(1), "damaged")
    store.route(number, Decision(text="received again", job_key="k1"), None)
    assert [film.number for film in store.unrouted(9)] == [number]


def test_a_job_that_is_rejected_again_has_its_first_notes_once_and_those_that_are_new(
    store: JobStore,
) -> None:
    _, token = running(store)
    first, second = result("k1", "one"), result("k1", "two")
    store.reject("k1", token, after(1), "cut short", [first], ["pacs"])
    store.route(1, Decision(text="anew", job_key="k1"), new_job())
    claimed = store.claim("w", after(2), 60)
    assert claimed is not None
    assert claimed.lease is not None
    again = replace(first, object=kept("other"))
    store.reject("k1", claimed.lease.token, after(3), "in colour", [again, second], ["pacs"])
    assert store.job("k1").error == "in colour"
    assert store.results("k1") == [again, second]
    assert [d.sop_instance_uid for d in store.deliveries("k1")] == [
        first.sop_instance_uid,
        second.sop_instance_uid,
    ]


def test_jobs_are_counted_by_state_with_the_oldest_of_each(store: JobStore) -> None:
    assert store.job_counts() == []
    running(store, "k1")
    submitted(store, "k2", created_s=5)
    submitted(store, "k3", created_s=3)
    assert store.job_counts() == [
        JobCount(state=JobState.RECEIVED, number=2, oldest=after(3)),
        JobCount(state=JobState.RUNNING, number=1, oldest=NOON),
    ]


def test_a_notice_that_is_posted_once_is_the_first_one_s(store: JobStore) -> None:
    assert store.post_once("own mark", "one", NOON) == "one"
    assert store.post_once("own mark", "two", after(1)) == "one"
    assert store.notice("own mark") == Notice(at=NOON, text="one")


def test_the_last_notice_of_a_name_is_kept(store: JobStore) -> None:
    assert store.notice("reconciled") is None
    store.post("reconciled", "one", NOON)
    store.post("other", "else", NOON)
    store.post("reconciled", "two", after(1))
    assert store.notice("reconciled") == Notice(at=after(1), text="two")


def test_a_job_that_is_rerouted_has_failed_and_its_films_are_undecided(store: JobStore) -> None:
    _, token = running(store, "k1")
    submitted(store, "k2")
    store.reroute("k1", token, after(1), "another model is in use")
    job = store.job("k1")
    assert (job.state, job.error, job.lease) == (JobState.FAILED, "another model is in use", None)
    assert [film.sop_instance_uid for film in store.unrouted(10)] == ["1.2.1"]
    assert store.received(1, "1.2.1")[0].job_key == ""


def test_an_attempt_that_counts_is_not_given_back(store: JobStore) -> None:
    _, token = running(store, "k1")
    store.release("k1", token, after(1), "the decoder died", counted=True)
    assert (store.job("k1").state, store.job("k1").attempts) == (JobState.RECEIVED, 1)
