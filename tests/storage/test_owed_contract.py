"""What every job store does with a film that is owed a decision, when others are decided again."""

from storage.jobs import Decision, Proof
from storage.store import JobStore
from storage.words import GONE, OURS
from tests.storage.samples import after, came, film, from_clinic

BROKEN = f"{OURS} (KeyError)"


def decided(store: JobStore, number: int) -> None:
    store.route(number, Decision(text="not analysed: lateral"), None)


def purgeable(store: JobStore, before_s: float) -> list[int]:
    return [one.number for one in store.purgeable_received(after(before_s), Proof(), 9)]


def unsettled(store: JobStore) -> list[int]:
    return [one.number for one in store.unsettled(after(99))]


def owed(store: JobStore) -> set[int]:
    return {one.number for one in store.owed()}


def test_a_film_is_left_out_with_what_its_sender_sent_later_and_is_gone(store: JobStore) -> None:
    """Else its end would be that of the corrected film, which nobody would hear of any more."""
    first, corrected = came(store, film(), 0, BROKEN), came(store, film(digest="b"), 1, GONE)
    assert owed(store) == {first, corrected}
    assert store.decide_again(after(99), {first}) == 0
    decided(store, first)
    assert unsettled(store) == [corrected]
    assert owed(store) == {corrected}


def test_a_film_is_left_out_with_what_its_sender_sent_later_and_another_overtook(
    store: JobStore,
) -> None:
    """The other's bytes are those of the first: that one alone would be no correction of them."""
    first, corrected = came(store, film(), 0, BROKEN), came(store, film(digest="b"), 1, BROKEN)
    came(store, from_clinic(), 2, "not analysed: lateral")
    assert store.decide_again(after(99)) == 0
    decided(store, first)
    assert unsettled(store) == [corrected]
    assert corrected not in purgeable(store, 50)


def test_a_film_is_left_out_with_what_another_sent_later_and_is_gone(store: JobStore) -> None:
    """Decided about after it, it would keep it from being decided about once its file is back."""
    first = came(store, film(), 0, BROKEN)
    corrected = came(store, from_clinic(digest="b"), 1, GONE)
    assert store.decide_again(after(99), {first}) == 0
    assert store.decide_again(after(99), {first, corrected}) == 2
    assert [one.number for one in store.unrouted(9)] == [first, corrected]


def test_a_film_comes_again_though_what_came_later_is_owed_nothing_since_it_was_purged(
    store: JobStore,
) -> None:
    first, corrected = came(store, film(), 0, BROKEN), came(store, film(digest="b"), 1, GONE)
    (gone,) = store.purgeable_received(after(50), Proof(), 9)
    assert gone.number == corrected
    assert store.purge_received(gone, after(50), Proof(), after(51), lambda _: None)
    assert store.decide_again(after(99)) == 1
    assert [one.number for one in store.unrouted(9)] == [first]


def test_the_same_bytes_of_another_sender_hold_nothing_back(store: JobStore) -> None:
    first = came(store, film(), 0, BROKEN)
    came(store, from_clinic(), 1, GONE)
    assert store.decide_again(after(99), {first}) == 1
