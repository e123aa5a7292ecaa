"""One suite over every job store: films of one UID that come again, in whatever bytes and order."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from storage.errors import UnknownKeyError
from storage.jobs import Decision, NewReceived, Received
from storage.states import JobState
from storage.store import JobStore
from tests.storage.samples import NOON, after, film, from_clinic, new_job

ANALYSED = Decision(text="analysed", job_key="k1")
FIRST, OTHER = film(digest="a"), film(digest="b")


def come(store: JobStore, new: NewReceived, at_s: float) -> Received:
    """The film comes, and nobody has decided about it yet."""
    return store.receive(replace(new, received_at=after(at_s)))


def route(store: JobStore, film: Received, at_s: float) -> None:
    """It is to be analysed: anew, or by the job that is there."""
    sender = {"object": film.object, "calling_ae_title": film.calling_ae_title}
    store.route(film.number, ANALYSED, replace(new_job("k1", at_s), **sender))  # type: ignore[arg-type]  # its fields


def begun(store: JobStore, at_s: float) -> int:
    """The token of whoever works on the job."""
    claimed = store.claim("w", after(at_s), 60)
    assert claimed is not None
    assert claimed.lease is not None
    return claimed.lease.token


def undecided(store: JobStore) -> list[str]:
    return [film.object.digest[0] for film in store.unrouted(9)]


def resent_into_the_others_job(store: JobStore) -> tuple[Received, int]:
    """The first film has failed; it comes again while the other, cut short, is in work."""
    route(store, come(store, FIRST, 0), 1)
    store.fail("k1", begun(store, 2), after(3), "no model")
    route(store, come(store, OTHER, 40), 41)
    token = begun(store, 42)
    again = come(store, FIRST, 50)
    route(store, again, 51)
    return again, token


def test_a_film_sent_again_into_another_ones_job_is_free_when_that_comes_to_nothing(
    store: JobStore,
) -> None:
    again, token = resent_into_the_others_job(store)
    assert again.number == 1  # a resend is the same row
    assert undecided(store) == []
    store.reject("k1", token, after(60), "cut short")
    assert undecided(store) == ["a"]
    assert store.unrouted(9)[0].job_key == ""


def test_it_is_free_too_where_it_came_before_the_others_job_was_made(store: JobStore) -> None:
    """Who routes had looked just before it came, and made the other's job just after."""
    route(store, come(store, FIRST, 0), 1)
    store.fail("k1", begun(store, 2), after(3), "no model")
    other, again = come(store, OTHER, 40), come(store, FIRST, 41)
    route(store, other, 42)
    route(store, again, 43)
    store.fail("k1", begun(store, 44), after(60), "cut short")
    assert undecided(store) == ["a"]


def test_each_film_is_tried_once_for_each_time_that_it_came(store: JobStore) -> None:
    again, token = resent_into_the_others_job(store)
    store.reject("k1", token, after(60), "cut short")
    route(store, again, 70)
    assert store.job("k1").object == FIRST.object
    store.fail("k1", begun(store, 71), after(80), "no model")
    assert undecided(store) == []


@pytest.mark.parametrize("order", ["fail come route", "come fail route", "come route fail route"])
def test_a_film_that_comes_again_as_its_own_job_fails_is_analysed_once_more_in_any_order(
    store: JobStore, order: str
) -> None:
    route(store, come(store, FIRST, 0), 1)
    token = begun(store, 2)
    steps: dict[str, Callable[[], object]] = {
        "come": lambda: come(store, FIRST, 10),
        "fail": lambda: store.fail("k1", token, after(20), "damaged"),
        "route": lambda: route(store, store.unrouted(1)[0], 30),
    }
    for step in order.split():
        steps[step]()
    assert (store.job("k1").state, undecided(store)) == (JobState.RECEIVED, [])
    store.fail("k1", begun(store, 40), after(50), "damaged")
    assert (store.job("k1").state, undecided(store)) == (JobState.FAILED, [])


def test_a_film_sent_again_into_its_own_job_that_is_rejected_is_not_tried_twice(
    store: JobStore,
) -> None:
    route(store, come(store, FIRST, 0), 1)
    token = begun(store, 2)
    route(store, come(store, FIRST, 10), 11)
    store.reject("k1", token, after(60), "no chest")
    assert undecided(store) == []


def test_all_that_came_to_a_job_are_free_and_the_next_one_s_job_has_the_rest(
    store: JobStore,
) -> None:
    for order, one in enumerate((FIRST, OTHER, from_clinic(digest="a"))):
        route(store, come(store, one, order), order)
    store.reject("k1", begun(store, 10), after(11), "no chest")
    assert [film.number for film in store.unrouted(9)] == [2, 3]
    for waiting in store.unrouted(9):
        route(store, waiting, 20)
    assert store.job("k1").object == OTHER.object
    store.reject("k1", begun(store, 21), after(22), "no chest")
    assert [film.number for film in store.unrouted(9)] == [3]
    route(store, store.unrouted(9)[0], 30)
    store.reject("k1", begun(store, 31), after(32), "no chest")
    assert (store.unrouted(9), store.job("k1").state) == ([], JobState.REJECTED)


@pytest.mark.parametrize("at_s", [10, 0], ids=["later", "by a clock that stands still"])
def test_a_decision_about_a_film_that_has_come_again_since_changes_nothing(
    store: JobStore, at_s: float
) -> None:
    looked_at = come(store, FIRST, 0)
    again = come(store, FIRST, at_s)
    gone = Decision(text="its file is gone")
    assert not store.route(looked_at.number, gone, None, looked_at.arrived_at)
    assert not store.route(looked_at.number, ANALYSED, new_job("k1"), looked_at.arrived_at)
    assert (store.unrouted(9), store.jobs(9)) == ([again], [])
    assert store.route(again.number, ANALYSED, new_job("k1"), again.arrived_at)
    assert (undecided(store), store.received(1)[0].job_key) == ([], "k1")


def test_of_two_who_decide_about_one_film_the_first_has_decided(store: JobStore) -> None:
    looked_at = come(store, FIRST, 0)
    assert store.route(looked_at.number, ANALYSED, new_job("k1"), looked_at.arrived_at)
    store.fail("k1", begun(store, 1), after(2), "damaged")
    late = Decision(text="analysed by another's rule", job_key="k1")
    assert not store.route(looked_at.number, late, new_job("k1", 3), looked_at.arrived_at)
    (decided,) = store.received(9)
    assert (decided.decision, store.job("k1").state) == (ANALYSED.text, JobState.FAILED)


def test_nothing_is_decided_about_a_film_that_never_came(store: JobStore) -> None:
    with pytest.raises(UnknownKeyError):
        store.route(99, ANALYSED, new_job("k1"), NOON)
    assert store.jobs(9) == []


def test_a_film_is_as_new_as_the_last_time_that_it_came(store: JobStore) -> None:
    first = come(store, FIRST, 0)
    assert (first.received_at, first.arrived_at) == (NOON, NOON)
    again = come(store, FIRST, 90)
    assert (again.received_at, again.arrived_at) == (NOON, after(90))
    come(store, OTHER, 30)
    assert [f.number for f in store.received(9, since=after(60))] == [1]
    assert [f.number for f in store.received(9, since=after(90))] == [1]
    assert store.received(9, since=after(91)) == []
