"""One suite over every job store: what a destination says of what it has stored."""

import pytest

from storage.errors import UnknownKeyError
from storage.jobs import Delivery, Transaction
from storage.store import JobStore
from tests.storage.samples import NOON, after, produced


def stored(store: JobStore, at_s: float = 1) -> list[Delivery]:
    """The two results of a job, DELIVERED to pacs."""
    if not store.jobs(1):
        produced(store)
    for parcel in store.claim_deliveries("pacs", "s", after(at_s), 60, 10):
        store.delivered(parcel, after(at_s), "", "0000", promised=True)
    return at_pacs(store)


def at_pacs(store: JobStore) -> list[Delivery]:
    return [d for d in store.deliveries("k1") if d.destination == "pacs"]


def states(store: JobStore) -> list[str]:
    return [str(d.state) for d in at_pacs(store)]


def test_what_was_delivered_is_asked_about_once_its_time_has_come(store: JobStore) -> None:
    stored(store, at_s=5)
    assert store.ask("pacs", "2.25.1", after(4), after(99), 10) == []
    with pytest.raises(UnknownKeyError):
        store.transaction("2.25.1")
    asked = store.ask("pacs", "2.25.2", after(5), after(99), 10)
    assert sorted(p.result.kind for p in asked) == ["secondary_capture", "structured_report"]
    assert {(p.delivery.transaction_uid, p.delivery.asked) for p in asked} == {("2.25.2", 1)}
    uids = frozenset(p.result.sop_instance_uid for p in asked)
    whole = Transaction(uid="2.25.2", destination="pacs", sop_instance_uids=uids)
    assert store.transaction("2.25.2") == whole
    assert store.ask("pacs", "2.25.3", after(98), after(200), 10) == []
    assert store.ask("archive", "2.25.3", after(98), after(200), 10) == []
    (again,) = store.ask("pacs", "2.25.3", after(99), after(200), 1)
    assert (again.delivery.transaction_uid, again.delivery.asked) == ("2.25.3", 2)
    assert store.transaction("2.25.2") == whole  # it was asked about both, whatever came later
    assert store.transaction("2.25.3").sop_instance_uids == {again.result.sop_instance_uid}


def test_what_was_delivered_where_nothing_was_promised_is_never_asked_about(
    store: JobStore,
) -> None:
    produced(store)
    first, second = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.delivered(first, after(1), "", "0000", promised=False)
    store.delivered(second, after(1), "", "0000", promised=True)
    assert store.asked_counts() == {"pacs": 1}
    (asked,) = store.ask("pacs", "2.25.1", after(900), after(999), 10)
    assert asked.delivery.sop_instance_uid == second.delivery.sop_instance_uid
    assert [d.promised for d in at_pacs(store)] == [False, True]


def test_what_the_destination_commits_is_committed_once_and_nothing_else(store: JobStore) -> None:
    first, second = stored(store)
    assert store.commit("archive", [first.sop_instance_uid], after(2)) == 0
    assert store.commit("pacs", [first.sop_instance_uid, "1.2.999"], after(2)) == 1
    assert store.commit("pacs", [first.sop_instance_uid], after(3)) == 0
    assert states(store) == ["COMMITTED", "DELIVERED"]
    assert at_pacs(store)[0].next_attempt_at == after(2)
    assert store.ask("pacs", "2.25.1", after(9), after(99), 10)[0].delivery.sop_instance_uid == (
        second.sop_instance_uid
    )


def test_what_was_sent_again_answers_no_question_of_before(store: JobStore) -> None:
    stored(store)
    store.ask("pacs", "2.25.1", after(2), after(99), 10)
    for asked in store.asked_in("2.25.1"):
        store.send_again(asked, after(3), "no such object there", "0112")
    resent = stored(store, at_s=4)
    assert {(d.state, d.transaction_uid) for d in resent} == {("DELIVERED", "")}
    assert store.asked_in("2.25.1") == []  # the same report once more
    uids = [d.sop_instance_uid for d in resent]
    assert store.commit("pacs", uids, after(5), "2.25.1") == 0  # nor does its success
    assert store.commit("pacs", uids, after(5), "2.25.9") == 0
    store.ask("pacs", "2.25.2", after(4), after(5), 10)  # at the very moment
    store.ask("pacs", "2.25.3", after(5), after(99), 10)
    assert store.commit("pacs", uids[:1], after(6), "2.25.2") == 1  # late, but of these
    assert store.commit("archive", uids, after(6), "2.25.2") == 0
    assert states(store) == ["COMMITTED", "DELIVERED"]


_YEARS_S = 3e8


def set_back(store: JobStore, at_s: float) -> None:
    """The clock was ahead until then."""
    store.bring_forward(after(at_s + 4320), after(at_s))


def test_what_a_clock_that_was_ahead_delivered_is_committed_by_a_question_asked_since(
    store: JobStore,
) -> None:
    first, second = (d.sop_instance_uid for d in stored(store, at_s=_YEARS_S))
    set_back(store, 10)
    assert len(store.ask("pacs", "2.25.1", after(10), after(20), 10)) == 2
    assert store.commit("pacs", [first], after(15), "2.25.1") == 1
    store.ask("pacs", "2.25.2", after(20), after(30), 10)
    assert len(store.asked_in("2.25.1")) == 1
    assert store.commit("pacs", [second], after(21), "2.25.1") == 1  # late, but of this


@pytest.mark.parametrize("resent_s", [_YEARS_S + 5, 12], ids=["before", "since"])
def test_a_question_of_a_clock_that_was_ahead_is_not_about_what_was_sent_since(
    store: JobStore, resent_s: float
) -> None:
    stored(store)
    store.ask("pacs", "2.25.1", after(_YEARS_S), after(_YEARS_S + 1), 10)
    if resent_s < _YEARS_S:
        set_back(store, 10)
    for asked in store.asked_in("2.25.1"):
        store.send_again(asked, after(11), "no such object there", "0112")
    uids = [d.sop_instance_uid for d in stored(store, at_s=resent_s)]
    set_back(store, 20)
    assert store.asked_in("2.25.1") == []
    assert store.commit("pacs", uids, after(21), "2.25.1") == 0
    store.ask("pacs", "2.25.2", after(21), after(99), 10)
    assert store.commit("pacs", uids, after(22), "2.25.2") == 2


def test_a_question_of_a_machine_that_is_a_little_ahead_stays_as_it_was_asked(
    store: JobStore,
) -> None:
    uids = [d.sop_instance_uid for d in stored(store, at_s=40)]
    store.ask("pacs", "2.25.1", after(50), after(51), 10)
    set_back(store, 10)
    store.ask("pacs", "2.25.2", after(51), after(99), 10)
    assert store.commit("pacs", uids, after(52), "2.25.1") == 2


def test_the_last_question_of_a_clock_that_was_ahead_is_answered_by_its_report(
    store: JobStore,
) -> None:
    uids = [d.sop_instance_uid for d in stored(store, at_s=_YEARS_S)]
    store.ask("pacs", "2.25.1", after(_YEARS_S), after(_YEARS_S + 600), 10)
    set_back(store, 10)
    assert store.commit("pacs", uids, after(11), "2.25.1") == 2


def test_only_what_failed_is_sent_again(store: JobStore) -> None:
    stored(store)
    store.ask("pacs", "2.25.1", after(2), after(99), 10)
    first, _ = store.asked_in("2.25.1")
    store.send_again(first, after(30), "no such object there", "0112")
    assert states(store) == ["DUE", "DELIVERED"]
    assert at_pacs(store)[0].reason == "no such object there"
    assert at_pacs(store)[0].status == "0112"
    assert store.claim_deliveries("pacs", "s", after(29), 60, 10) == []
    (parcel,) = store.claim_deliveries("pacs", "s", after(30), 60, 10)
    assert parcel.delivery.attempts == 2
    store.delivered(parcel, after(31), "", "0000", promised=True)
    assert [d.asked for d in at_pacs(store)] == [0, 1]


def test_a_failure_that_was_read_before_another_question_has_no_effect(store: JobStore) -> None:
    stored(store)
    store.ask("pacs", "2.25.1", after(2), after(3), 10)
    old, _ = store.asked_in("2.25.1")
    store.ask("pacs", "2.25.2", after(3), after(99), 10)
    store.send_again(old, after(4), "late word")
    assert states(store) == ["DELIVERED", "DELIVERED"]


def test_an_earlier_question_is_still_open_unless_the_result_was_sent_since(
    store: JobStore,
) -> None:
    stored(store)
    store.ask("pacs", "2.25.1", after(2), after(3), 10)
    store.ask("pacs", "2.25.2", after(3), after(99), 10)
    old, other = store.asked_in("2.25.1")
    assert {d.transaction_uid for d in (old, other)} == {"2.25.2"}
    store.send_again(old, after(4), "no such object there", "0112")
    stored(store, at_s=5)
    for transaction in ("2.25.1", "2.25.2"):
        assert store.asked_in(transaction) == [other]
    store.ask_again("2.25.1", after(6), "it does not answer")  # which nobody was asked last
    assert store.asked_in("2.25.2") == [other]
    assert store.asked_in("2.25.3") == []


def test_a_request_that_failed_is_made_again_when_it_is_said(store: JobStore) -> None:
    stored(store)
    store.ask("pacs", "2.25.1", after(2), after(999), 10)
    store.ask_again("2.25.1", after(20), "it does not answer")
    assert [d.reason for d in at_pacs(store)] == ["it does not answer"] * 2
    assert store.ask("pacs", "2.25.2", after(19), after(999), 10) == []
    assert len(store.ask("pacs", "2.25.2", after(20), after(999), 10)) == 2


def test_only_what_is_named_of_a_request_is_asked_about_again(store: JobStore) -> None:
    first, _ = stored(store)
    store.ask("pacs", "2.25.1", after(2), after(999), 10)
    store.ask_again("2.25.1", after(20), "not there", [first.sop_instance_uid, "1.2.999"])
    assert [d.reason for d in at_pacs(store)] == ["not there", ""]
    (again,) = store.ask("pacs", "2.25.2", after(20), after(999), 10)
    assert again.result.sop_instance_uid == first.sop_instance_uid
    store.ask_again("2.25.2", after(30), "none", [])
    assert store.ask("pacs", "2.25.3", after(30), after(999), 10) == []


def test_each_attempt_says_what_it_was_answered(store: JobStore) -> None:
    produced(store)
    first, second = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.postpone(first, after(9), "out of resources", "A700")
    store.refuse(second, after(1), "cannot understand", "C000")
    assert [(d.status, d.attempts) for d in at_pacs(store)] == [("A700", 1), ("C000", 1)]


def test_a_transaction_is_forgotten_once_nothing_waits_for_its_report(store: JobStore) -> None:
    stored(store)
    store.ask("pacs", "2.25.1", after(2), after(3), 10)
    asked = store.ask("pacs", "2.25.2", after(3), after(99), 10)
    assert store.forget_transactions(after(2)) == 0
    assert store.forget_transactions(after(99)) == 1
    with pytest.raises(UnknownKeyError):
        store.transaction("2.25.1")
    store.commit("pacs", [p.result.sop_instance_uid for p in asked], after(4))
    assert store.forget_transactions(after(3)) == 0
    assert store.forget_transactions(after(4)) == 1
