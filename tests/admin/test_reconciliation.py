"""`vald-node reconcile`: what it prints, and what its exit status says."""

import json
from pathlib import Path

import pytest

from dicom_node import wiring
from dicom_node.admin import reconciliation
from dicom_node.errors import NodeError
from storage import migrate
from storage.jobs import Decision
from tests.admin import commands
from tests.storage.samples import film


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = commands.config(tmp_path, "embedded")
    migrate.up(wiring.read_config(path, {}).storage.database)
    return path


def receive(
    place: Path,
    uid: str,
    decision: str = "",
    days_ago: float = 0,
    calling_ae_title: str = "CR1",
) -> None:
    from dataclasses import replace
    from datetime import timedelta

    settings = wiring.read_config(place, {})
    store = wiring.open_store(settings)
    kept = wiring.open_objects(settings, store).keep(f"received/{uid}.dcm", uid.encode())
    when = wiring.now() - timedelta(days=days_ago)
    sender = replace(film(uid), calling_ae_title=calling_ae_title)
    new = replace(sender, object=kept, received_at=when)
    number = store.receive(new).number
    if decision:
        store.route(number, Decision(text=decision), None)
    store.close()


def test_where_nothing_is_missing_the_exit_status_is_0(place: Path) -> None:
    receive(place, "1.2.1", "not analysed: lateral")
    receive(place, "1.2.2")
    done = commands.vald("reconcile", "--config", place)
    assert done.exit_code == 0
    assert "2 films: 0 complete, 1 not analysed, 1 under way, 0 missing" in done.output
    assert "not analysed: lateral" in done.output


def test_one_missing_film_is_exit_status_1_and_says_why(place: Path) -> None:
    receive(place, "1.2.1", days_ago=0.5)
    done = commands.vald("reconcile", "--json", "--config", place)
    assert done.exit_code == 1
    said = json.loads(done.output)
    assert said["well"] is False
    assert said["counts"]["missing"] == 1
    (line,) = said["films"]
    assert (line["sop_instance_uid"], line["standing"], line["why"]) == (
        "1.2.1",
        "missing",
        "no decision yet",
    )


def test_only_films_of_the_time_asked_for_are_looked_at(place: Path) -> None:
    receive(place, "1.2.1", days_ago=2)
    assert commands.vald("reconcile", "--config", place).exit_code == 0
    assert commands.vald("reconcile", "--since", "3d", "--config", place).exit_code == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("24h", 86400),
        ("7d", 604800),
        (" 1h ", 3600),
        ("525600m", 31_536_000),
        ("99999d", 8_639_913_600),
    ],
)
def test_a_time_is_minutes_hours_or_days(text: str, seconds: int) -> None:
    assert reconciliation.span(text).total_seconds() == seconds


@pytest.mark.parametrize(
    "text", ["", "24", "h", "-1h", "1w", "1.5h", "999999d", "999999999d", "9999999999m"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(NodeError, match="write a time such as"):
        reconciliation.span(text)


def test_a_film_sent_again_is_of_the_time_in_which_it_came_last(place: Path) -> None:
    receive(place, "1.2.1", days_ago=3)
    receive(place, "1.2.1", days_ago=0.5)
    done = commands.vald("reconcile", "--since", "24h", "--config", place)
    assert done.exit_code == 1
    assert "1 films: 0 complete, 0 not analysed, 0 under way, 1 missing" in done.output


def test_what_peers_say_is_text_not_markup(place: Path) -> None:
    receive(place, "1.2.1", "not analysed: [/db] full", calling_ae_title="[/A]")
    done = commands.vald("reconcile", "--config", place)
    assert done.exit_code == 0, done.exception
    assert "[/A]" in done.output
    assert "[/db] full" in done.output
