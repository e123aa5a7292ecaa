"""The objects' volume away while films are in work, and processes that start meanwhile."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline import testing
from tests.faults import hospital
from tests.faults.hospital import Hospital
from tests.peers import nodes, tools

pytestmark = [pytest.mark.peer, pytest.mark.timeout(1800)]


def objects_of(place: Hospital) -> Path:
    return place.node.folder / "var" / "objects"


def test_films_wait_for_a_volume_that_is_away_whatever_starts_meanwhile(tmp_path: Path) -> None:
    model = tmp_path / "model"
    testing.write_tiny_model(model)
    with hospital.opened(tmp_path, model, "", workers=1) as place:
        place.node.start()
        place.send(place.expose(4))
        assert all(place.told.values())
        objects_of(place).rename(tmp_path / "unmounted")
        for child in hospital.children_of(place.node):
            hospital.end(child)
        away = place.expose(2)
        place.send(away)
        assert not any(place.told[uid] for uid in away)
        tools.wait_until(
            lambda: place.node.log().count("storage unavailable") >= 2, 300, "both to wait"
        )
        assert not objects_of(place).exists()
        (tmp_path / "unmounted").rename(objects_of(place))
        place.resend_what_failed()
        place.demand_nothing_lost_or_doubled()


def test_a_node_that_is_started_before_its_volume_waits_for_it(tmp_path: Path) -> None:
    model = tmp_path / "model"
    testing.write_tiny_model(model)
    with hospital.opened(tmp_path, model, "", workers=1) as place:
        place.node.start()
        place.send(place.expose(1))
        place.node.cut_power()
        objects_of(place).rename(tmp_path / "unmounted")
        objects_of(place).mkdir()  # the mount point
        command = [*nodes.VALD, "serve", "--config", str(place.node.config)]
        with (place.node.folder / "node.log").open("a") as log:
            place.node.process = subprocess.Popen(
                command, stderr=log, env=dict(os.environ), start_new_session=True
            )
        tools.wait_until(lambda: "storage unavailable" in place.node.log(), 300, "it to say so")
        assert not tools.listens(place.node.port)
        assert list(objects_of(place).iterdir()) == []
        objects_of(place).rmdir()
        (tmp_path / "unmounted").rename(objects_of(place))
        tools.wait_until(lambda: tools.listens(place.node.port), 300, "the node to listen")
        place.demand_nothing_lost_or_doubled()
