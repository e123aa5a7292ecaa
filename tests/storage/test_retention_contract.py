"""One suite over every job store: what waits, and whose object nobody needs any more."""

from collections.abc import Callable
from dataclasses import replace
from threading import Thread

import pytest

from storage.errors import StorageError
from storage.jobs import Decision, ObjectRef, Proof, Received, Result
from storage.promises import PURGED
from storage.states import JobState
from storage.store import JobStore
from storage.words import GONE, OURS
from tests.storage.samples import (
    NOON,
    after,
    film,
    from_clinic,
    left_behind,
    new_job,
    produced,
    purged,
    result,
    running,
    submitted,
)

KNOWN = frozenset({"pacs", "archive"})
COMMITTED, EITHER = Proof(), Proof(delivered=True, known=KNOWN)
QUERIED = Proof(delivered=True, queried=frozenset({"archive"}), known=KNOWN)


def settle(store: JobStore, key: str, *, committed: bool, promised: bool = True) -> None:
    """All deliveries of a produced job have arrived, at their destinations or for good."""
    for destination in ("pacs", "archive"):
        parcels = store.claim_deliveries(destination, "s", NOON, 60, 10)
        mine = [p for p in parcels if p.delivery.job_key == key]
        for parcel in mine:
            store.delivered(parcel, NOON, "", promised=promised)
        if committed:
            store.commit(destination, [p.delivery.sop_instance_uid for p in mine], NOON)


def purgeable(store: JobStore, proof: Proof, before_s: float = 1) -> list[str]:
    found = store.purgeable_received(after(before_s), proof, 10)
    return [one.sop_instance_uid for one in found]


def test_what_is_not_analysed_yet_is_counted(store: JobStore) -> None:
    assert store.waiting() == 0
    store.receive(film("1.2.9", digest="z"))
    submitted(store, "k2")
    assert store.waiting() == 2
    produced(store, "k1")  # its claim takes k2 first: one runs, one is produced
    assert store.waiting() == 2


def test_films_received_since_then_are_found(store: JobStore) -> None:
    store.receive(film("1.2.1", digest="a"))
    store.receive(replace(film("1.2.2", digest="b"), received_at=after(10)))
    assert [f.sop_instance_uid for f in store.received(9, since=after(10))] == ["1.2.2"]
    assert len(store.received(9, since=NOON)) == 2


def test_a_film_whose_job_is_open_is_never_purgeable(store: JobStore) -> None:
    store.receive(film("1.2.9", digest="z"))
    running(store, "k1")
    submitted(store, "k2")
    assert purgeable(store, EITHER, before_s=10**9) == []


def test_a_film_that_came_again_for_nothing_is_kept_while_its_first_job_goes_on(
    store: JobStore,
) -> None:
    produced(store, "k1")
    left_behind(store, "k1")
    submitted(store, "k2")
    left_behind(store, "k2")
    assert purgeable(store, COMMITTED, before_s=10**9) == []
    settle(store, "k1", committed=True)
    assert purgeable(store, COMMITTED) == ["1.2.1"]


def test_a_film_that_we_could_not_decide_about_is_kept_until_it_comes_again(
    store: JobStore,
) -> None:
    number = store.receive(film("1.2.9", digest="z")).number
    store.route(number, Decision(text=f"{OURS} (KeyError)"), None)
    assert purgeable(store, EITHER, before_s=10**9) == []
    again = store.receive(replace(film("1.2.9", digest="y"), received_at=after(9))).number
    store.route(again, Decision(text="lateral"), None)
    assert purgeable(store, EITHER, before_s=10**9) == ["1.2.9", "1.2.9"]  # that was its end


def test_what_is_lost_of_a_job_that_its_film_has_left_keeps_no_film(store: JobStore) -> None:
    produced(store, "k1")
    left_behind(store, "k1")
    for place in ("pacs", "archive"):
        for parcel in store.claim_deliveries(place, "s", NOON, 60, 10):
            store.refuse(parcel, NOON, "its model was recalled")
    assert purgeable(store, COMMITTED) == ["1.2.1"]
    assert store.unsettled(NOON) == []


def test_a_film_whose_job_failed_is_kept_for_the_operator(store: JobStore) -> None:
    _, token = running(store, "k1")
    store.fail("k1", token, NOON, "no model")
    assert purgeable(store, EITHER) == []


def test_a_film_without_a_job_or_whose_job_was_rejected_is_purgeable_by_age(
    store: JobStore,
) -> None:
    number = store.receive(film("1.2.9", digest="z")).number
    store.route(number, Decision(text="not analysed: lateral"), None)
    _, token = running(store, "k1")
    store.reject("k1", token, NOON, "no chest")
    assert purgeable(store, COMMITTED, before_s=0) == []
    assert purgeable(store, COMMITTED) == ["1.2.9", "1.2.1"]


def test_a_film_whose_file_was_gone_is_purged_by_age_and_owed_nothing_then(
    store: JobStore,
) -> None:
    number = store.receive(film()).number
    store.route(number, Decision(text=GONE), None)
    assert [one.number for one in store.unsettled(after(99))] == [number]
    (found,) = store.purgeable_received(after(1), COMMITTED, 10)
    assert store.purge_received(found, after(1), COMMITTED, after(9), lambda _: None)
    assert store.unsettled(after(99)) == []
    assert store.decide_again(after(99)) == 0


def test_a_film_is_purgeable_once_all_its_results_are_proven(store: JobStore) -> None:
    produced(store, "k1")
    assert purgeable(store, EITHER) == []
    settle(store, "k1", committed=False)
    assert purgeable(store, COMMITTED) == []
    assert purgeable(store, EITHER) == ["1.2.1"]
    assert len(store.purgeable_results(after(1), EITHER, 10)) == 2
    assert store.purgeable_results(after(1), COMMITTED, 10) == []
    assert store.purgeable_results(NOON, EITHER, 10) == []


def test_a_film_that_lacks_a_result_is_kept_for_the_operator(store: JobStore) -> None:
    job, token = running(store, "k1")
    made = [result("k1", job.results[0])]
    store.produce("k1", token, NOON, made, job.destinations, left_out="left out: a report")
    settle(store, "k1", committed=True)
    assert purgeable(store, EITHER) == []
    assert store.purgeable_results(after(1), EITHER, 10) == []


def test_one_delivery_that_is_not_proven_keeps_film_and_results(store: JobStore) -> None:
    produced(store, "k1")
    settle(store, "k1", committed=False)
    store.ask("pacs", "2.25.1", after(1), after(9), 10)
    first, _ = store.asked_in("2.25.1")
    store.send_again(first, after(9), "no such object there")
    assert purgeable(store, EITHER) == []
    assert store.purgeable_results(after(1), EITHER, 10) == []


def test_delivered_is_no_proof_where_it_is_yet_to_be_asked(store: JobStore) -> None:
    produced(store, "k1")
    settle(store, "k1", committed=False)
    (found,) = store.purgeable_received(after(1), EITHER, 10)
    assert store.purgeable_received(after(1), QUERIED, 10) == []
    assert store.purgeable_results(after(1), QUERIED, 10) == []
    assert not store.purge_received(found, after(1), QUERIED, after(2), lambda _: None)
    settle(store, "k1", committed=True)
    uids = [made.sop_instance_uid for made in store.results("k1")]
    store.commit("archive", uids, after(2))
    assert len(store.purgeable_results(after(1), QUERIED, 10)) == 2
    assert store.purge_received(found, after(1), QUERIED, after(2), lambda _: None)


def purge(
    store: JobStore, film: Received, remove: Callable[[ObjectRef], None] = lambda _: None
) -> bool:
    return store.purge_received(film, after(1), COMMITTED, after(2), remove)


def test_a_film_sent_again_before_its_turn_keeps_its_object(store: JobStore) -> None:
    number = store.receive(film("1.2.9", digest="z")).number
    store.route(number, Decision(text="not analysed: lateral"), None)
    (found,) = store.purgeable_received(after(1), COMMITTED, 10)
    store.receive(film("1.2.9", digest="z"))  # undecided again
    removed: list[ObjectRef] = []
    assert not purge(store, found, removed.append)
    assert removed == []


def test_what_cannot_be_removed_is_purgeable_still(store: JobStore) -> None:
    produced(store, "k1")
    settle(store, "k1", committed=True)
    (found,) = store.purgeable_received(after(1), COMMITTED, 10)

    def fail(_: ObjectRef) -> None:
        raise StorageError("no such disk")

    with pytest.raises(StorageError, match="no such disk"):
        purge(store, found, fail)
    assert purgeable(store, COMMITTED) == ["1.2.1"]
    removed: list[ObjectRef] = []
    assert purge(store, found, removed.append)
    assert removed == [found.object]
    assert not purge(store, found)


def test_what_was_purged_is_not_purgeable_again_until_it_is_received_again(
    store: JobStore,
) -> None:
    produced(store, "k1")
    settle(store, "k1", committed=True)
    films = store.purgeable_received(after(1), COMMITTED, 10)
    results = store.purgeable_results(after(1), COMMITTED, 10)
    assert (len(films), len(results)) == (1, 2)
    assert purge(store, films[0])
    purged(store, *results)
    assert purgeable(store, COMMITTED) == []
    assert store.purgeable_results(after(9), COMMITTED, 10) == []
    again = film("1.2.1", digest="k1")
    assert store.receive(again).number == films[0].number
    assert purgeable(store, COMMITTED) == []  # it is decided about again first
    store.route(films[0].number, Decision(text="received again", job_key="k1"), None)
    assert purgeable(store, COMMITTED) == ["1.2.1"]


def test_an_object_that_two_have_sent_stays_until_neither_needs_it(store: JobStore) -> None:
    films = [store.receive(film("1.2.9", "z")), store.receive(from_clinic("1.2.9", "z"))]
    no = Decision(text="not analysed: lateral")
    store.route(films[0].number, no, None)
    assert purgeable(store, COMMITTED) == []
    removed: list[ObjectRef] = []
    assert not purge(store, films[0], removed.append)
    store.route(films[1].number, no, None)
    assert purgeable(store, COMMITTED) == ["1.2.9", "1.2.9"]
    assert purge(store, films[0], removed.append)
    assert purge(store, films[1], removed.append)  # of what is not there nothing is removed
    assert removed == [films[0].object] * 2


def test_a_note_that_is_on_its_way_keeps_itself_and_its_film(store: JobStore) -> None:
    _, token = running(store, "k1")
    store.reject("k1", token, NOON, "no chest", [result("k1", "not_analysed")], ["pacs"])
    assert purgeable(store, EITHER) == []
    assert store.purgeable_results(after(1), EITHER, 10) == []
    settle(store, "k1", committed=False)
    assert store.purgeable_results(after(1), COMMITTED, 10) == []
    assert purgeable(store, EITHER) == ["1.2.1"]
    assert [r.kind for r in store.purgeable_results(after(1), EITHER, 10)] == ["not_analysed"]


def test_what_no_row_has_is_unknown_and_dropped(store: JobStore) -> None:
    produced(store, "k1")
    made = store.results("k1")[0].object.name
    names = ["received/k1.dcm", made, "received/orphan.dcm"]
    assert store.unknown(names) == ["received/orphan.dcm"]
    dropped: list[str] = []

    def drop(name: str) -> bool:
        def gone() -> bool:
            dropped.append(name)
            return True

        return store.drop_unknown(name, gone)

    assert [drop(name) for name in names] == [False, False, True]
    assert dropped == ["received/orphan.dcm"]
    settle(store, "k1", committed=True)
    (found,) = store.purgeable_received(after(1), COMMITTED, 10)
    assert purge(store, found)
    assert store.unknown(names) == ["received/k1.dcm", "received/orphan.dcm"]


def test_what_a_removed_destination_was_to_commit_and_has_not_is_no_proof(
    store: JobStore,
) -> None:
    removed = Proof(delivered=True, known=frozenset({"archive"}))
    for key in ("k1", "k2"):
        produced(store, key)
        settle(store, key, committed=False, promised=key == "k2")
    assert purgeable(store, EITHER) == ["1.2.1", "1.2.2"]
    assert len(store.purgeable_results(after(1), EITHER, 10)) == 4
    assert purgeable(store, removed) == ["1.2.1"]
    assert {one.job_key for one in store.purgeable_results(after(1), removed, 10)} == {"k1"}
    store.drop_deliveries("pacs", after(2), "its destination is no more")
    assert purgeable(store, removed) == ["1.2.1", "1.2.2"]


def listed(store: JobStore) -> tuple[Result, Result]:
    """Both results of a job, as they were when they could be purged."""
    produced(store, "k1")
    settle(store, "k1", committed=False)
    first, second = store.purgeable_results(after(1), EITHER, 10)
    return first, second


def asked_for_more(store: JobStore) -> None:
    """The clinic is promised the picture too."""
    clinic = replace(new_job("k1", 2), promised={"clinic": ("secondary_capture",)})
    store.route(1, Decision(text="received again", job_key="k1"), clinic)


def not_found(store: JobStore) -> None:
    store.ask("pacs", "2.25.1", after(1), after(9), 10)
    for delivery in store.asked_in("2.25.1"):
        store.send_again(delivery, after(2), "no such object there")


@pytest.mark.parametrize(("needed", "place"), [(asked_for_more, "clinic"), (not_found, "pacs")])
def test_a_result_that_is_needed_again_before_its_turn_keeps_its_object(
    store: JobStore, needed: Callable[[JobStore], None], place: str
) -> None:
    made = listed(store)
    needed(store)
    removed: list[ObjectRef] = []
    for one in made:
        assert not store.purge_result(one, after(1), EITHER, after(3), removed.append)
    assert removed == []
    assert store.claim_deliveries(place, "s", after(4), 60, 10)[0].result == made[0]
    assert store.job("k1").state is JobState.PRODUCED


def test_whoever_needs_a_result_waits_until_it_is_purged_and_has_it_made_again(
    store: JobStore,
) -> None:
    picture, _ = listed(store)
    other = Thread(target=asked_for_more, args=(store,))

    def removing(_: ObjectRef) -> None:
        other.start()
        other.join(0.3)
        assert other.is_alive()

    assert store.purge_result(picture, after(1), EITHER, after(2), removing)
    other.join()
    assert store.job("k1").state is JobState.RECEIVED
    assert [d.reason for d in store.deliveries("k1") if d.destination == "clinic"] == [PURGED]


@pytest.mark.parametrize("how", [StorageError, KeyboardInterrupt])
def test_a_result_whose_purge_is_cut_off_is_made_again_for_whoever_needs_it(
    store: JobStore, how: type[BaseException]
) -> None:
    """Nobody can tell whether its file is there: a row that knew it would have it sent."""
    picture, report = listed(store)

    def cut_off(_: ObjectRef) -> None:
        raise how

    with pytest.raises(how):
        store.purge_result(picture, after(1), EITHER, after(2), cut_off)
    assert store.purgeable_results(after(1), EITHER, 10) == [report]
    assert store.unknown([picture.object.name, report.object.name]) == [picture.object.name]
    asked_for_more(store)
    assert store.job("k1").state is JobState.RECEIVED
    assert [d.reason for d in store.deliveries("k1") if d.destination == "clinic"] == [PURGED]


def left_over(store: JobStore) -> str:
    """The name of a result's object whose row says that it is purged, but which is there."""
    picture, _ = listed(store)

    def cut_off(_: ObjectRef) -> None:
        raise StorageError("Input/output error")

    with pytest.raises(StorageError):
        store.purge_result(picture, after(1), EITHER, after(2), cut_off)
    return picture.object.name


def at_work_again(store: JobStore) -> int:
    """The token of whoever works on the job."""
    job = store.claim("w", after(4), 60)
    assert job is not None
    assert job.lease is not None
    return job.lease.token


def test_an_object_that_a_job_may_find_whole_is_not_dropped_before_its_end(
    store: JobStore,
) -> None:
    name, dropped = left_over(store), list[str]()

    def drop() -> bool:
        dropped.append(name)
        return True

    asked_for_more(store)
    assert (store.unknown([name]), store.drop_unknown(name, drop)) == ([], False)
    token = at_work_again(store)
    assert (store.unknown([name]), store.drop_unknown(name, drop)) == ([], False)
    store.fail("k1", token, after(5), "no model")
    assert (store.unknown([name]), store.drop_unknown(name, drop)) == ([name], True)
    assert dropped == [name]


def test_whoever_would_have_a_result_made_again_waits_until_its_object_is_dropped(
    store: JobStore,
) -> None:
    name = left_over(store)
    asked_for_more(store)
    store.fail("k1", at_work_again(store), after(5), "no model")
    other = Thread(target=store.retry, args=("k1", after(6)))

    def dropping() -> bool:
        other.start()
        other.join(0.3)
        return other.is_alive()

    assert store.drop_unknown(name, dropping)
    other.join()
    assert store.job("k1").state is JobState.RECEIVED


def test_a_result_is_purged_once(store: JobStore) -> None:
    picture, report = listed(store)
    removed: list[ObjectRef] = []
    assert store.purge_result(picture, after(1), EITHER, after(2), removed.append)
    assert not store.purge_result(picture, after(1), EITHER, after(3), removed.append)
    assert removed == [picture.object]
    assert store.purgeable_results(after(1), EITHER, 10) == [report]
