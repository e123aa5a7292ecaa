"""The node is killed at every step of its contract, and at moments of nobody's choice."""

import os
import random
import re
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.faults import Point
from tests.conftest import REPOSITORY
from tests.faults.conftest import LONG
from tests.faults.hospital import SENDERS, Hospital, children_of, end, pause
from tests.faults.modalities import GOES_TO, Sent, by_everyone

pytestmark = [pytest.mark.peer, pytest.mark.timeout(4 * 3600 if LONG else 1200)]

_ARRIVALS = [int(n) for n in os.environ.get("VALD_ARRIVALS", "1,2,5" if LONG else "1").split(",")]
_MOMENTS = int(os.environ.get("VALD_MOMENTS", "200" if LONG else "2"))
_LONGEST_PAUSE_S = float(os.environ.get("VALD_LONGEST_PAUSE_S", "40" if LONG else "20"))
"""A node needs some 10 s to have its model; analysis, delivery and commitment come after."""
_LONGEST_SEND_S = 1.0
"""As long as storescu needs for some films."""
_IN_FLIGHT = SENDERS if LONG else 1
_AGAIN = 4
"""So many films are sent again at every moment, and by everyone when all is done."""
_SEED = int(os.environ.get("VALD_SEED", "20260301"))


def test_killed_at_each_step_nothing_accepted_is_lost_and_nothing_doubled(place: Hospital) -> None:
    for nth in _ARRIVALS:
        for point in Point:
            assert place.die_at(point, nth, send=max(_IN_FLIGHT, nth + 1)).exists(), point
            place.purging.start()
    place.node.start()
    place.demand_nothing_lost_or_doubled()
    _send_again(place)
    place.demand_nothing_lost_or_doubled()


def test_killed_at_random_under_load_nothing_accepted_is_lost_and_nothing_doubled(
    place: Hospital,
) -> None:
    chance = random.Random(_SEED)
    place.node.start()
    hit: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    for _ in range(_MOMENTS):
        place.purging.start()
        loads = [_sending(place, chance, place.expose(SENDERS))]
        pause(chance, _LONGEST_PAUSE_S)
        hit.update(str(line["state"]) for line in place.node.jobs(limit=100_000))
        # Whatever the node has done by now: those whom death meets while they send, and those whom
        # it has met before, who send again.
        loads.append(_sending(place, chance, chance.choices(place.films, k=_AGAIN)))
        loads.append(_sending(place, chance, place.expose(SENDERS)))
        pause(chance, _LONGEST_SEND_S)
        killed[_kill_something(place, chance)] += 1
        for load in loads:
            load.join()
    print(f"seed {_SEED}; killed: {dict(killed)}; jobs at the moments of death: {dict(hit)}")
    assert hit.total() > hit["COMMITTED"], "no kill met a job that was open"
    assert any(place.told.values())
    place.purging.start()
    place.demand_nothing_lost_or_doubled()
    _send_again(place)
    place.demand_nothing_lost_or_doubled()
    assert place.sendings["after success"]
    assert place.sendings["by another"]
    print(f"films sent: {dict(place.sendings)}")


def _sending(place: Hospital, chance: random.Random, films: Sequence[Sent]) -> threading.Thread:
    """The films are being sent, each by anybody."""
    sends = [Sent(sent.film, by=chance.choice([*GOES_TO])) for sent in films]
    load = threading.Thread(target=place.send, args=(sends,))
    load.start()
    return load


def _send_again(place: Hospital) -> None:
    """What failed; and, long after success, some films by everyone: those of one sender first.

    Their results are purged, and are made again for the other.
    """
    place.wait_until_all_is_purged()
    place.resend_what_failed()
    senders = Counter(sent.film for sent in place.told)
    films = sorted(place.films, key=lambda film: senders[film.film])
    place.send(by_everyone(films[:_AGAIN]))
    assert all(place.told.values())


def _kill_something(place: Hospital, chance: random.Random) -> str:
    """Everything at once, the receiver alone, or one of its children, which it starts again.

    Who purges is killed beside it, half of the times.
    """
    children = children_of(place.node)
    if chance.random() < 0.5:
        place.purging.kill()
    if children and chance.random() < 0.5:
        end(chance.choice(children))
        return "a child"
    if chance.random() < 0.5:
        place.node.cut_power()
        met = "everything"
    else:
        place.node.kill()
        met = "the receiver"
    place.node.start()
    return met


def test_the_contract_names_every_step() -> None:
    text = Path(REPOSITORY / "docs/durability.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `([a-z-]+)` \|", text, flags=re.MULTILINE)
    assert described == [str(point) for point in Point]
