"""One suite over every job store: destinations that are held or rest, and what comes too late."""

from dataclasses import replace

from storage.jobs import Decision, DeliveryCount, DestinationHealth
from storage.states import DeliveryState
from storage.store import JobStore
from tests.storage.samples import (
    NOON,
    after,
    film,
    left_behind,
    new_job,
    produced,
    result,
    submitted,
)


def at(store: JobStore, destination: str, key: str = "k1") -> list[str]:
    return [str(d.state) for d in store.deliveries(key) if d.destination == destination]


def test_of_a_destination_that_nobody_noted_nothing_is_wrong(store: JobStore) -> None:
    assert store.destination("pacs") == DestinationHealth(name="pacs")


def test_what_is_noted_of_a_destination_is_kept_and_leaves_the_hold_alone(store: JobStore) -> None:
    resting = DestinationHealth(
        name="pacs", failures=5, retry_at=after(160), reason="cannot connect"
    )
    store.note_destination(resting, NOON)
    assert store.destination("pacs") == resting
    store.hold("pacs", NOON)
    store.note_destination(replace(resting, failures=6), after(1))
    assert store.destination("pacs") == replace(resting, failures=6, held=True)
    assert store.destination("archive") == DestinationHealth(name="archive")


def test_what_waits_for_a_time_that_no_delay_reaches_is_due(store: JobStore) -> None:
    """A clock was ahead, and was set back."""
    produced(store)
    first, second = store.claim_deliveries("pacs", "s", NOON, 60, 2)
    store.postpone(first, after(9000), "busy", "A700")
    store.postpone(second, after(60), "busy", "A700")
    first, second = store.claim_deliveries("archive", "s", NOON, 60, 2)
    store.delivered(first, after(9000), "", promised=True)
    store.delivered(second, after(9000), "")
    resting = DestinationHealth(name="pacs", failures=5, retry_at=after(9000))
    soon = DestinationHealth(name="archive", failures=5, retry_at=after(60))
    for health in (resting, soon):
        store.note_destination(health, NOON)
    assert store.bring_forward(after(3600), after(1)) == 2
    assert {at.next_attempt_at for at in store.deliveries("k1")} == {
        after(1),
        after(60),
        after(9000),
    }
    assert len(store.claim_deliveries("pacs", "s", after(1), 60, 9)) == 1
    asked = store.ask("archive", "9.9", after(1), after(2), 9)
    assert [p.delivery.sop_instance_uid for p in asked] == [first.delivery.sop_instance_uid]
    assert store.destination("pacs").retry_at == after(1)
    assert store.destination("archive") == soon
    assert store.bring_forward(after(3600), after(1)) == 0


def test_what_is_due_at_a_held_destination_waits_for_its_release(store: JobStore) -> None:
    produced(store)
    (parcel,) = store.claim_deliveries("pacs", "s", NOON, 60, 1)
    store.hold("pacs", after(1))
    assert at(store, "pacs") == ["SENDING", "HELD"]
    assert at(store, "archive") == ["DUE", "DUE"]
    store.postpone(parcel, after(99), "busy", "A700")
    store.hold("pacs", after(2))
    assert at(store, "pacs") == ["HELD", "HELD"]
    assert store.claim_deliveries("pacs", "s", after(999), 60, 10) == []
    store.release_destination("pacs", after(1000))
    assert store.destination("pacs") == DestinationHealth(name="pacs")
    claimed = store.claim_deliveries("pacs", "s", after(1000), 60, 10)
    assert sorted(p.delivery.attempts for p in claimed) == [1, 2]


def test_only_what_waits_for_the_destination_itself_is_hastened(store: JobStore) -> None:
    for key in ("k1", "k2", "k3"):
        produced(store, key)
    answers = ["", "RJ 2 3 2", "A700", "HTTP 503", "HTTP 501", "HTTP 429"]
    parcels = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    for parcel, status in zip(parcels, answers, strict=False):
        store.postpone(parcel, after(500), "later", status)
    assert store.hasten("archive", after(1)) == 0
    assert store.hasten("pacs", after(1)) == 4
    assert len(store.claim_deliveries("pacs", "s", after(1), 60, 10)) == 4


def test_what_comes_too_late_expires_unless_it_has_arrived(store: JobStore) -> None:
    produced(store)
    (arrived, waiting) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.delivered(arrived, NOON, "")
    store.postpone(waiting, after(50), "busy")
    assert store.expire("pacs", NOON, after(60), "too late") == 0
    assert store.expire("pacs", after(1), after(60), "too late") == 1
    assert at(store, "pacs") == ["DELIVERED", "EXPIRED"]
    assert at(store, "archive") == ["DUE", "DUE"]
    assert store.deliveries("k1")[2].reason == "too late"
    store.retry("k1", after(70))
    assert at(store, "pacs") == ["DELIVERED", "DUE"]


def test_what_a_film_has_left_behind_expires_too(store: JobStore) -> None:
    produced(store)
    left_behind(store)
    assert store.expire("pacs", NOON, after(60), "too late") == 0
    assert store.expire("pacs", after(1), after(60), "too late") == 2


def test_what_the_operator_tries_again_is_as_old_as_that_is_long_ago(store: JobStore) -> None:
    produced(store)
    assert store.expire("pacs", after(1), after(60), "too late") == 2
    store.retry("k1", after(70))
    assert store.expire("pacs", after(70), after(130), "too late") == 0
    assert len(store.claim_deliveries("pacs", "s", after(130), 60, 10)) == 2
    store.reclaim(after(191), max_attempts=9)
    assert store.expire("pacs", after(71), after(200), "too late") == 2


def test_no_rejection_note_comes_too_late(store: JobStore) -> None:
    produced(store)
    for parcel in store.claim_deliveries("pacs", "s", NOON, 60, 10):
        store.delivered(parcel, after(1), "")
    store.retract(result("k1", "rejection_note"), ["pacs"], after(2), "recalled")
    assert store.expire("pacs", after(1), after(99), "too late") == 0
    (note,) = store.claim_deliveries("pacs", "s", after(99), 60, 10)
    assert note.result.kind == "rejection_note"


def test_what_becomes_due_is_held_only_where_the_destination_still_is(store: JobStore) -> None:
    store.hold("pacs", NOON)
    produced(store)
    store.hold_due("pacs", after(1))
    store.hold_due("archive", after(1))
    assert (at(store, "pacs"), at(store, "archive")) == (["HELD"] * 2, ["DUE"] * 2)
    store.release_destination("pacs", after(2))
    store.hold_due("pacs", after(3))  # of one who had looked before
    assert at(store, "pacs") == ["DUE", "DUE"]
    assert not store.destination("pacs").held


def test_nothing_is_claimed_for_a_destination_that_is_held(store: JobStore) -> None:
    store.hold("pacs", NOON)
    produced(store)  # by a worker that knows of no destination
    assert store.claim_deliveries("pacs", "s", after(1), 60, 10) == []
    assert at(store, "pacs") == ["DUE", "DUE"]
    assert len(store.claim_deliveries("archive", "s", after(1), 60, 10)) == 2
    store.release_destination("pacs", after(2))
    assert len(store.claim_deliveries("pacs", "s", after(2), 60, 10)) == 2


def asked_at_pacs(store: JobStore) -> None:
    """Both results reached pacs, which was asked about them."""
    produced(store)
    for parcel in store.claim_deliveries("pacs", "s", NOON, 60, 10):
        store.delivered(parcel, after(1), "", "0000", promised=True)
    store.ask("pacs", "2.25.1", after(2), after(99), 10)


def test_results_that_a_destination_was_asked_about_are_counted(store: JobStore) -> None:
    assert store.asked_counts() == {}
    asked_at_pacs(store)
    assert store.asked_counts() == {"pacs": 2}
    store.commit("pacs", [store.results("k1")[0].sop_instance_uid], after(3))
    assert store.asked_counts() == {"pacs": 1}


def test_what_a_removed_destination_was_asked_about_is_asked_about_elsewhere(
    store: JobStore,
) -> None:
    asked_at_pacs(store)
    assert store.move_deliveries("pacs", "new", after(3)) == 0
    assert store.move_deliveries("pacs", "new", after(3), asked=DeliveryState.DELIVERED) == 2
    assert at(store, "new") == ["DELIVERED", "DELIVERED"]
    assert store.asked_in("2.25.1") == []
    asked = store.ask("new", "2.25.2", after(3), after(99), 10)
    assert [p.delivery.asked for p in asked] == [1, 1]
    assert store.move_deliveries("new", "archive", after(4), asked=DeliveryState.DELIVERED) == 2
    assert at(store, "archive") == ["DUE", "DUE"]  # which gets them already


def test_what_a_removed_destination_was_asked_about_is_sent_to_one_that_nobody_asks(
    store: JobStore,
) -> None:
    asked_at_pacs(store)
    first, _ = store.results("k1")
    store.commit("pacs", [first.sop_instance_uid], after(2))
    assert store.move_deliveries("pacs", "new", after(3), asked=DeliveryState.DUE) == 1
    assert (at(store, "pacs"), at(store, "new")) == (["COMMITTED"], ["DUE"])
    assert store.asked_counts() == {}
    (parcel,) = store.claim_deliveries("new", "s", after(3), 60, 10)
    assert (parcel.delivery.attempts, parcel.delivery.status) == (1, "")
    assert parcel.delivery.reason == "moved from pacs"


def test_what_a_removed_destination_took_again_and_was_not_asked_about_yet_is_open_too(
    store: JobStore,
) -> None:
    asked_at_pacs(store)
    for asked in store.asked_in("2.25.1"):
        store.send_again(asked, after(3), "no such object there", "0112")
    for parcel in store.claim_deliveries("pacs", "s", after(3), 60, 10):
        store.delivered(parcel, after(4), "", "0000", promised=True)
    assert store.asked_counts() == {"pacs": 2}
    assert store.move_deliveries("pacs", "new", after(5), asked=DeliveryState.DELIVERED) == 2
    assert len(store.ask("new", "2.25.2", after(5), after(99), 10)) == 2


def test_what_a_dropped_destination_was_asked_about_is_asked_about_no_more(
    store: JobStore,
) -> None:
    asked_at_pacs(store)
    assert store.drop_deliveries("pacs", after(3), "gone") == 2
    assert (at(store, "pacs"), store.asked_counts()) == (["DELIVERED"] * 2, {})


def test_deliveries_are_counted_by_destination_and_state(store: JobStore) -> None:
    assert store.delivery_counts() == []
    produced(store)
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.delivered(parcel, NOON, "")
    assert store.delivery_counts() == [
        DeliveryCount(destination="archive", state=DeliveryState.DUE, number=2),
        DeliveryCount(destination="pacs", state=DeliveryState.DELIVERED, number=1),
        DeliveryCount(destination="pacs", state=DeliveryState.SENDING, number=1),
    ]


def test_what_waits_at_a_destination_that_is_no_more_moves_to_another(store: JobStore) -> None:
    produced(store, "k1")
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.delivered(parcel, NOON, "", "0000")
    store.hold("archive", NOON)
    assert store.move_deliveries("archive", "vault", after(1)) == 2
    assert at(store, "archive") == []
    moved = store.claim_deliveries("vault", "s", after(1), 60, 10)
    assert [(p.delivery.attempts, p.delivery.reason) for p in moved] == [
        (1, "moved from archive")
    ] * 2
    store.reclaim(after(99), 3)
    assert store.move_deliveries("vault", "pacs", after(99)) == 2
    assert at(store, "vault") == []
    assert at(store, "pacs") == ["DELIVERED", "DUE"]  # nothing goes there twice
    assert store.move_deliveries("nowhere", "pacs", after(99)) == 0


def test_what_waits_at_a_destination_can_be_dropped(store: JobStore) -> None:
    produced(store, "k1")
    (first, _) = store.claim_deliveries("pacs", "s", NOON, 60, 1) * 2
    store.delivered(first, NOON, "", "0000")
    store.hold("pacs", NOON)
    assert store.drop_deliveries("pacs", after(1), "dropped") == 1
    assert at(store, "pacs") == ["DELIVERED", "REFUSED"]
    assert at(store, "archive") == ["DUE", "DUE"]
    assert store.drop_deliveries("archive", after(1), "dropped") == 2
    assert {d.reason for d in store.deliveries("k1") if d.destination == "archive"} == {"dropped"}


def test_what_comes_too_late_is_counted_from_its_film_not_from_its_job(store: JobStore) -> None:
    submitted(store, "k1", created_s=500)  # received at noon, and routed when the node was back
    job = store.claim("w", after(500), 60)
    assert job is not None
    assert job.lease is not None
    made = [result("k1", "secondary_capture")]
    store.produce("k1", job.lease.token, after(500), made, ["pacs"])
    assert store.expire("pacs", NOON, after(500), "too late") == 0
    assert store.expire("pacs", after(1), after(500), "too late") == 1


def test_a_film_that_comes_again_is_as_old_as_that_is_long_ago(store: JobStore) -> None:
    first = store.receive(film())
    store.route(first.number, Decision(text="not analysed: no rule"), None)
    store.receive(replace(film(), received_at=after(5000)))
    store.route(first.number, Decision(text="analysed", job_key="k1"), new_job("k1", 5000))
    job = store.claim("w", after(5000), 60)
    assert job is not None
    assert job.lease is not None
    made = [result("k1", "secondary_capture")]
    store.produce("k1", job.lease.token, after(5000), made, ["pacs"])
    assert store.expire("pacs", after(5000), after(5001), "too late") == 0
    assert store.expire("pacs", after(5001), after(9000), "too late") == 1
