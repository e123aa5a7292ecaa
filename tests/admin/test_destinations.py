"""`vald-node destinations`: what an operator sees and does."""

import json
from pathlib import Path

import pytest
import yaml

from dicom_node import wiring
from storage import migrate
from storage.jobs import DestinationHealth
from storage.store import JobStore
from tests.admin import commands
from tests.storage.samples import NOON, after, produced, result, running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = commands.config(tmp_path, "embedded")
    migrate.up(wiring.read_config(path, {}).storage.database)
    return path


def opened(place: Path) -> JobStore:
    return wiring.open_store(wiring.read_config(place, {}))


def listed(place: Path) -> dict[str, object]:
    done = commands.vald("destinations", "--json", "--config", place)
    assert done.exit_code == 0, done.output
    line = json.loads(done.output)[0]
    return dict(line)


def test_each_destination_is_listed_with_what_waits_for_it(place: Path) -> None:
    store = opened(place)
    produced(store)
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    store.delivered(parcel, NOON, "")
    store.close()
    line = listed(place)
    assert (line["name"], line["state"], line["waiting"], line["delivered"]) == (
        "pacs",
        "well",
        1,
        1,
    )


def test_a_destination_in_trouble_says_why_and_until_when(place: Path) -> None:
    store = opened(place)
    store.note_destination(
        DestinationHealth(name="pacs", failures=1, reason="cannot connect"), NOON
    )
    assert listed(place)["state"] == "in trouble"
    resting = DestinationHealth(name="pacs", failures=5, retry_at=after(160), reason="[/it] cannot")
    store.note_destination(resting, NOON)
    store.close()
    line = listed(place)
    assert (line["state"], line["retry_at"]) == ("resting", "2026-03-01T12:02:40+00:00")
    table = commands.vald("destinations", "--config", place)
    assert "resting" in table.output
    assert "[/it] cannot" in table.output  # what a PACS says is text, not markup


def test_hold_and_release_are_kept_and_shown(place: Path) -> None:
    store = opened(place)
    produced(store)
    store.close()
    assert commands.vald("destinations", "hold", "pacs", "--config", place).exit_code == 0
    assert (listed(place)["state"], listed(place)["waiting"]) == ("held", 2)
    store = opened(place)
    assert [str(d.state) for d in store.deliveries("k1")] == ["HELD", "DUE", "HELD", "DUE"]
    store.close()
    assert commands.vald("destinations", "release", "pacs", "--config", place).exit_code == 0
    assert listed(place)["state"] == "well"


def test_a_destination_that_there_is_not_is_named_with_those_there_are(place: Path) -> None:
    done = commands.vald("destinations", "hold", "pax", "--config", place)
    assert done.exit_code != 0
    assert "there is no destination pax; there are: pacs" in str(done.exception)


def test_results_for_a_destination_that_was_removed_are_listed_moved_or_dropped(
    place: Path,
) -> None:
    store = opened(place)
    produced(store, "k1")
    produced(store, "k2")
    done = commands.vald("destinations", "--json", "--config", place)
    _, archive = json.loads(done.output)
    assert (archive["name"], archive["state"], archive["waiting"]) == ("archive", "unknown", 4)
    assert archive["reason"] == "the configuration does not name it"
    (first, *_) = store.claim_deliveries("archive", "s", NOON, 60, 1)
    refused = commands.vald("destinations", "drop", "pacs", "--config", place)
    assert "pacs is configured" in str(refused.exception)
    wrong = commands.vald("destinations", "move", "archive", "pax", "--config", place)
    assert "there is no destination pax; there are: pacs" in str(wrong.exception)
    moved = commands.vald("destinations", "move", "archive", "pacs", "--config", place)
    assert moved.output == "3 results go to pacs\n"
    store.postpone(first, NOON, "")
    dropped = commands.vald("destinations", "drop", "archive", "--config", place)
    assert dropped.output == "1 results wait there no more\n"
    store.close()
    done = commands.vald("destinations", "--json", "--config", place)
    assert len(json.loads(done.output)) == 1


@pytest.mark.parametrize(("commitment", "state"), [("none", "DUE"), ("query", "DELIVERED")])
def test_what_a_removed_destination_has_yet_to_commit_is_sent_where_nothing_is_asked(
    place: Path, commitment: str, state: str
) -> None:
    keys = yaml.safe_load(place.read_text())
    keys["destinations"]["pacs"]["commitment"] = commitment
    place.write_text(yaml.safe_dump(keys))
    store = opened(place)
    job, token = running(store)
    store.produce("k1", token, NOON, [result("k1", kind) for kind in job.results], ["old"])
    for parcel in store.claim_deliveries("old", "s", NOON, 60, 10):
        store.delivered(parcel, NOON, "", "0000", promised=True)
    store.ask("old", "2.25.1", NOON, after(60), 10)
    moved = commands.vald("destinations", "move", "old", "pacs", "--config", place)
    assert moved.output == "2 results go to pacs\n"
    found = store.deliveries("k1")
    store.close()
    assert [(one.destination, str(one.state)) for one in found] == [("pacs", state)] * 2
