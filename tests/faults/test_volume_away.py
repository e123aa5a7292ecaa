"""The objects' volume away while films are in work, and processes that start meanwhile."""

from functools import partial
from pathlib import Path

import pytest

from pipeline import testing
from tests.faults import hospital
from tests.faults.hospital import Hospital, says
from tests.peers import tools

pytestmark = [pytest.mark.peer, pytest.mark.timeout(1800)]

_LONG_S = 300
"""A worker loads its model; a busy machine takes its time."""


def objects_of(place: Hospital) -> Path:
    return place.node.folder / "var" / "objects"


def send_in_vain(place: Hospital) -> None:
    """Two films more, which nobody takes."""
    away = place.expose(2)
    place.send(away)
    assert not any(place.told[uid] for uid in away)


def test_films_wait_for_a_volume_that_is_away_whatever_starts_meanwhile(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path / "model")
    with hospital.opened(tmp_path, tmp_path / "model", "", workers=1) as place:
        place.node.start()
        tools.wait_until(partial(says, place, "worker ready"), _LONG_S, "the worker")
        place.send(place.expose(4))
        assert all(place.told.values())
        objects_of(place).rename(tmp_path / "unmounted")
        for child in hospital.children_of(place.node):
            hospital.end(child)
        send_in_vain(place)
        tools.wait_until(partial(says, place, "worker ready", 2), _LONG_S, "the next worker")
        tools.wait_until(partial(says, place, "tick failed"), _LONG_S, "the dispatcher to see it")
        assert not objects_of(place).exists()
        (tmp_path / "unmounted").rename(objects_of(place))
        place.resend_what_failed()
        place.demand_nothing_lost_or_doubled()


def test_a_node_that_starts_without_its_volume_takes_no_empty_folder_for_it(
    tmp_path: Path,
) -> None:
    testing.write_tiny_model(tmp_path / "model")
    with hospital.opened(tmp_path, tmp_path / "model", "", workers=1) as place:
        place.node.start()
        place.send(place.expose(1))
        assert all(place.told.values())
        place.node.cut_power()
        objects_of(place).rename(tmp_path / "unmounted")
        objects_of(place).mkdir()  # the mount point
        place.node.start()
        assert says(place, "objects unavailable")
        send_in_vain(place)
        tools.wait_until(partial(says, place, "worker ready"), _LONG_S, "the worker")
        tools.wait_until(partial(says, place, "tick failed"), _LONG_S, "the dispatcher to see it")
        assert "volume is gone" in place.node.run("reconcile").stderr
        assert list(objects_of(place).iterdir()) == []
        objects_of(place).rmdir()
        (tmp_path / "unmounted").rename(objects_of(place))
        place.resend_what_failed()
        place.demand_nothing_lost_or_doubled()
