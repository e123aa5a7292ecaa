"""One suite over every job store: a film that is sent again for more than was promised of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from storage.jobs import RECALLED, Decision, NewJob, Result
from storage.promises import PURGED
from storage.states import DeliveryState, JobState
from storage.store import JobStore
from tests.storage.samples import NOON, after, film, from_clinic, new_job, purged, result

SC, SR = "secondary_capture", "structured_report"
PICTURE, REPORT = result("k1", SC), result("k1", SR)
AGAIN = Decision(text="received again", job_key="k1")

Promised = dict[str, tuple[str, ...]]
TO_PACS: Promised = {"pacs": (SC,)}


def job(promised: Promised, created_s: float = 0, **values: object) -> NewJob:
    anew = replace(new_job("k1", created_s), promised=promised)
    return replace(anew, **values)  # type: ignore[arg-type]  # any field


def routed(store: JobStore, promised: Promised = TO_PACS) -> None:
    """A job k1 of a film that CR1 has sent."""
    store.route(store.receive(film()).number, AGAIN, job(promised))


def come_for(store: JobStore, promised: Promised) -> None:
    """The same film comes from the clinic, ten seconds later, by a rule that promises this."""
    store.route(store.receive(from_clinic()).number, AGAIN, job(promised, 10, rule="clinic"))


def claimed(store: JobStore) -> int:
    found = store.claim("w", after(20), 60)
    assert found is not None
    assert found.lease is not None
    return found.lease.token


def produce(
    store: JobStore, token: int, kinds: Promised, made: Sequence[Result] = (PICTURE,)
) -> None:
    store.produce("k1", token, after(30), made, tuple(kinds), kinds)


def deliver(store: JobStore, place: str) -> list[str]:
    """What is due there arrives; the kinds."""
    parcels = store.claim_deliveries(place, "s", after(40), 60, 10)
    for parcel in parcels:
        assert store.delivered(parcel, after(40), "")
    return [parcel.result.kind for parcel in parcels]


def stand(store: JobStore) -> list[tuple[str, str, str]]:
    kinds = {made.sop_instance_uid: made.kind for made in store.results("k1")}
    found = store.deliveries("k1")
    return [(kinds[d.sop_instance_uid], d.destination, str(d.state)) for d in found]


def delivered(store: JobStore) -> None:
    """The picture is at the PACS."""
    routed(store)
    produce(store, claimed(store), TO_PACS)
    assert deliver(store, "pacs") == [SC]


def test_the_same_bytes_of_another_sender_are_a_film_of_their_own(store: JobStore) -> None:
    first, second = store.receive(film()), store.receive(from_clinic())
    assert first.number != second.number
    assert (second.calling_ae_title, second.object) == ("CLINIC", first.object)
    assert store.receive(from_clinic()).number == second.number
    assert [waiting.number for waiting in store.unrouted(9)] == [first.number, second.number]


def test_a_film_that_comes_for_another_place_goes_there_and_nowhere_twice(store: JobStore) -> None:
    delivered(store)
    before = store.deliveries("k1")
    come_for(store, {"clinic": (SC,)})
    assert store.job("k1").state is JobState.PRODUCED
    assert stand(store) == [(SC, "pacs", "DELIVERED"), (SC, "clinic", "DUE")]
    assert store.deliveries("k1")[:1] == before
    assert (deliver(store, "pacs"), deliver(store, "clinic")) == ([], [SC])
    come_for(store, {"clinic": (SC,)})
    assert (deliver(store, "pacs"), deliver(store, "clinic")) == ([], [])


def test_what_was_moved_to_a_place_is_not_sent_there_twice(store: JobStore) -> None:
    routed(store)
    produce(store, claimed(store), TO_PACS)
    store.move_deliveries("pacs", "clinic", after(35))
    assert deliver(store, "clinic") == [SC]
    come_for(store, {"clinic": (SC,)})
    assert stand(store) == [(SC, "clinic", "DELIVERED")]


def test_a_film_that_comes_before_the_first_is_analysed_is_promised_its_places_too(
    store: JobStore,
) -> None:
    routed(store)
    come_for(store, {"clinic": (SR,), "pacs": (SC, SR)})
    both: Promised = {"pacs": (SC, SR), "clinic": (SR,)}
    assert (store.job("k1").state, store.job("k1").promised) == (JobState.RECEIVED, both)
    produce(store, claimed(store), both, [PICTURE, REPORT])
    assert stand(store) == [(SC, "pacs", "DUE"), (SR, "pacs", "DUE"), (SR, "clinic", "DUE")]


def test_a_film_that_comes_while_the_first_is_analysed_goes_to_its_places_too(
    store: JobStore,
) -> None:
    """The worker that has the job in hand does not know of them."""
    routed(store)
    token = claimed(store)
    come_for(store, {"clinic": (SC,)})
    produce(store, token, TO_PACS)
    assert store.job("k1").state is JobState.PRODUCED
    assert stand(store) == [(SC, "pacs", "DUE"), (SC, "clinic", "DUE")]


def by_produced(store: JobStore) -> None:
    delivered(store)
    come_for(store, {"clinic": (SC, SR)})


def by_running(store: JobStore) -> None:
    routed(store)
    token = claimed(store)
    come_for(store, {"clinic": (SC, SR)})
    produce(store, token, TO_PACS)
    deliver(store, "pacs")


@pytest.mark.parametrize("come", [by_produced, by_running])
def test_a_film_that_comes_for_another_kind_has_it_made_and_nothing_sent_twice(
    store: JobStore, come: Callable[[JobStore], None]
) -> None:
    come(store)
    assert (store.job("k1").state, store.job("k1").attempts) == (JobState.RECEIVED, 0)
    deliver(store, "clinic")  # what is there need not wait
    produce(store, claimed(store), dict(store.job("k1").promised), [PICTURE, REPORT])
    assert store.job("k1").state is JobState.PRODUCED
    assert stand(store) == [
        (SC, "pacs", "DELIVERED"),
        (SC, "clinic", "DELIVERED"),
        (SR, "clinic", "DUE"),
    ]


def test_what_was_promised_before_and_cannot_be_made_is_not_tried_again(store: JobStore) -> None:
    """Some kinds no film of a sort gives; else each resend would be analysed."""
    routed(store, {"pacs": (SC, SR)})
    produce(store, claimed(store), {"pacs": (SC, SR)})
    come_for(store, {"clinic": (SC, SR)})
    assert store.job("k1").state is JobState.PRODUCED
    assert stand(store) == [(SC, "pacs", "DUE"), (SC, "clinic", "DUE")]


def test_what_was_purged_is_made_again_for_the_new_place_alone(store: JobStore) -> None:
    delivered(store)
    purged(store, PICTURE)
    come_for(store, {"clinic": (SC,)})
    assert store.job("k1").state is JobState.RECEIVED
    assert stand(store)[1] == (SC, "clinic", "REFUSED")
    assert store.deliveries("k1")[1].reason == PURGED
    assert deliver(store, "clinic") == []
    produce(store, claimed(store), dict(store.job("k1").promised))
    assert stand(store) == [(SC, "pacs", "DELIVERED"), (SC, "clinic", "DUE")]


def test_what_was_recalled_goes_to_nobody_more(store: JobStore) -> None:
    delivered(store)
    purged(store, PICTURE)
    store.retract(result("k1", "rejection_note"), ["pacs"], after(60), "recalled")
    come_for(store, {"clinic": (SC, SR)})
    assert store.job("k1").state is JobState.PRODUCED
    (more,) = [d for d in store.deliveries("k1") if d.destination == "clinic"]
    assert (more.state, more.reason) == (DeliveryState.REFUSED, RECALLED)


def test_what_is_quarantined_is_so_for_the_new_place_too(store: JobStore) -> None:
    routed(store)
    store.produce("k1", claimed(store), after(30), [PICTURE], ["pacs"], TO_PACS, {SC: "no UID"})
    come_for(store, {"clinic": (SC,)})
    (_, more) = store.deliveries("k1")
    assert (more.state, more.reason) == (DeliveryState.QUARANTINED, "no UID")
    store.retry("k1", after(40))
    assert (deliver(store, "pacs"), deliver(store, "clinic")) == ([SC], [SC])


def test_what_was_given_up_is_not_sent_because_a_film_comes_for_more(store: JobStore) -> None:
    routed(store)
    store.produce("k1", claimed(store), after(30), [PICTURE], ["pacs"], TO_PACS, {SC: "no UID"})
    come_for(store, {"clinic": (SR,)})
    produce(store, claimed(store), dict(store.job("k1").promised), [PICTURE, REPORT])
    assert stand(store) == [(SC, "pacs", "QUARANTINED"), (SR, "clinic", "DUE")]
    assert store.deliveries("k1")[0].reason == "no UID"
    store.retry("k1", after(50))
    assert stand(store)[0] == (SC, "pacs", "DUE")


def test_what_is_promised_later_does_not_expire_by_the_first_film_s_age(store: JobStore) -> None:
    delivered(store)
    come_for(store, {"clinic": (SC, SR)})
    produce(store, claimed(store), dict(store.job("k1").promised), [PICTURE, REPORT])
    assert store.expire("clinic", after(9), after(99), "too late") == 0
    assert store.expire("clinic", after(31), after(99), "too late") == 2


def test_what_is_retried_or_sent_again_after_a_failure_does_not_expire_by_its_film_s_age(
    store: JobStore,
) -> None:
    routed(store)
    store.fail("k1", claimed(store), after(10), "no model")
    store.retry("k1", after(15))
    produce(store, claimed(store), TO_PACS)
    assert store.expire("pacs", after(9), after(99), "too late") == 0
    assert store.expire("pacs", after(99), after(99), "too late") == 1


def test_where_a_job_failed_what_another_rule_promised_is_kept(store: JobStore) -> None:
    routed(store)
    store.fail("k1", claimed(store), after(30), "no model")
    come_for(store, {"clinic": (SR,)})
    assert store.job("k1").state is JobState.RECEIVED
    assert store.job("k1").promised == {"pacs": (SC,), "clinic": (SR,)}


def test_where_a_film_was_rejected_the_next_one_owes_nothing_to_its_places(store: JobStore) -> None:
    routed(store)
    store.reject("k1", claimed(store), after(30), "lateral")
    come_for(store, {"clinic": (SR,)})
    assert store.job("k1").promised == {"clinic": (SR,)}


def test_what_a_rejected_job_had_made_goes_to_who_is_promised_it_afterwards(
    store: JobStore,
) -> None:
    delivered(store)
    purged(store, PICTURE)
    routed(store, {"pacs": (SC, SR)})
    store.reject("k1", claimed(store), after(60), "lateral", [result("k1", "not_analysed")])
    come_for(store, {"clinic": (SC,)})
    produce(store, claimed(store), dict(store.job("k1").promised))
    assert (SC, "clinic", "DUE") in stand(store)


def test_a_note_that_says_the_same_goes_to_whoever_was_not_told(store: JobStore) -> None:
    note = result("k1", "not_analysed")
    routed(store)
    store.reject("k1", claimed(store), NOON, "lateral", [note], ["pacs"])
    assert deliver(store, "pacs") == ["not_analysed"]
    come_for(store, {"clinic": ("not_analysed",)})
    store.reject("k1", claimed(store), after(50), "lateral", [note], ["clinic"])
    assert (deliver(store, "pacs"), len(store.deliveries("k1"))) == ([], 2)
    parcels = store.claim_deliveries("clinic", "s", after(60), 60, 10)
    assert [parcel.result.kind for parcel in parcels] == ["not_analysed"]
