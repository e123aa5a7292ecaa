"""Where a film stands, as `vald-node jobs` shows it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node import wiring
from dicom_node.admin import listing
from dicom_node.routing.router import BROKEN, GONE
from storage import migrate
from storage.jobs import Decision, Delivery
from storage.memory import MemoryJobStore
from storage.states import DeliveryState, JobState
from storage.store import JobStore
from tests.admin import commands
from tests.storage import samples
from tests.storage.samples import NOON, after


def delivery(state: DeliveryState) -> Delivery:
    return Delivery(
        job_key="k1",
        sop_instance_uid="1.2",
        destination="pacs",
        state=state,
        attempts=1,
        next_attempt_at=NOON,
        reason="",
    )


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([], "PRODUCED"),
        (["DUE"], "PRODUCED"),
        (["SENDING", "DELIVERED"], "PRODUCED"),
        (["DELIVERED", "DUE"], "PRODUCED"),
        (["DELIVERED", "REFUSED"], "PRODUCED"),
        (["COMMITTED", "HELD"], "PRODUCED"),
        (["COMMITTED", "QUARANTINED"], "PRODUCED"),
        (["DELIVERED"], "DELIVERED"),
        (["DELIVERED", "DELIVERED"], "DELIVERED"),
        (["DELIVERED", "COMMITTED"], "DELIVERED"),
        (["COMMITTED", "COMMITTED"], "COMMITTED"),
    ],
)
def test_a_produced_job_is_as_far_as_the_last_of_its_deliveries(
    states: Sequence[str], shown: str
) -> None:
    store = MemoryJobStore()
    samples.produced(store)
    deliveries = [delivery(DeliveryState(state)) for state in states]
    assert listing.overall(store.job("k1"), deliveries) == shown


def left(store: JobStore, way: str) -> None:
    """The job k1 has left the worker this way, or has not yet."""
    if way == "RECEIVED":
        samples.submitted(store)
        return
    job, token = samples.running(store)
    if way == "REJECTED":
        store.reject(job.key, token, NOON, "no chest")
    if way == "FAILED":
        store.fail(job.key, token, NOON, "no model")


@pytest.mark.parametrize("state", ["RECEIVED", "RUNNING", "REJECTED", "FAILED"])
def test_a_job_without_results_is_shown_as_it_is(state: str) -> None:
    store = MemoryJobStore()
    left(store, state)
    assert listing.overall(store.job("k1"), []) == state
    assert listing.overall(store.job("k1"), [delivery(DeliveryState.DELIVERED)]) == state


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a migrated, empty database."""
    (tmp_path / "var").mkdir()
    path = commands.config(tmp_path, "embedded")
    migrate.up(wiring.read_config(path, {}).storage.database)
    return path


@pytest.fixture
def store(config: Path) -> JobStore:
    return wiring.open_store(wiring.read_config(config, {}))


def lines(config: Path, state: JobState | None = None, limit: int = 100) -> list[listing.FilmLine]:
    return listing.films(config, {}, limit=limit, state=state)


def test_an_empty_store_has_no_lines(config: Path) -> None:
    assert lines(config) == []


def test_a_film_without_a_job_is_shown_with_its_decision(config: Path, store: JobStore) -> None:
    number = store.receive(samples.film()).number
    (undecided,) = lines(config)
    assert (undecided.state, undecided.error, undecided.key) == ("RECEIVED", "", "")
    store.route(number, Decision(text="not analysed: no chest"), None)
    (decided,) = lines(config)
    assert (decided.state, decided.error) == ("REJECTED", "not analysed: no chest")
    assert (decided.source_sop_instance_uid, decided.calling_ae_title) == ("1.2.3", "CR1")


def test_a_resend_is_on_the_line_of_its_job(config: Path, store: JobStore) -> None:
    samples.submitted(store)
    again = store.receive(samples.film(uid="1.2.1", digest="b")).number
    store.route(again, Decision(text="received again", job_key="k1"), None)
    assert [line.key for line in lines(config)] == ["k1"]


def test_a_delivery_that_waits_says_why_once(config: Path, store: JobStore) -> None:
    samples.produced(store)
    for parcel in store.claim_deliveries("pacs", "dispatcher", NOON, 60, 10):
        store.postpone(parcel, after(60), "connection refused")
    (line,) = lines(config)
    assert (line.state, line.error) == ("PRODUCED", "connection refused")
    assert [d["destination"] for d in line.deliveries].count("pacs") == 2


def test_lines_are_chosen_by_the_state_that_is_shown(config: Path, store: JobStore) -> None:
    samples.produced(store, "k1")
    for destination in ("pacs", "archive"):
        for parcel in store.claim_deliveries(destination, "dispatcher", NOON, 60, 10):
            store.delivered(parcel, NOON, "")
    samples.submitted(store, "k2", created_s=1)
    done = commands.vald("jobs", "-c", config, "--json", "--state", "DELIVERED")
    assert '"k1"' in done.stdout
    assert '"k2"' not in done.stdout
    assert [line.key for line in lines(config)] == ["k2", "k1"]


def test_the_limit_counts_lines_newest_first(config: Path, store: JobStore) -> None:
    for second, key in enumerate(("k1", "k2", "k3")):
        samples.submitted(store, key, created_s=second)
    assert [line.key for line in lines(config, limit=2)] == ["k3", "k2"]


def test_a_state_is_looked_for_beyond_the_newest_lines(config: Path, store: JobStore) -> None:
    job, token = samples.running(store, "k1")
    store.fail(job.key, token, NOON, "no model")
    samples.submitted(store, "k2", created_s=1)
    assert [line.key for line in lines(config, JobState.FAILED, limit=1)] == ["k1"]


def test_the_table_shows_key_state_and_reason(config: Path, store: JobStore) -> None:
    left(store, "FAILED")
    done = commands.vald("jobs", "-c", config)
    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("k1", "FAILED", "no model"))


def test_retry_lets_a_failed_job_wait_again(config: Path, store: JobStore) -> None:
    left(store, "FAILED")
    done = commands.vald("retry", "k1", "-c", config)
    assert done.stdout == "k1 is RECEIVED\n"
    assert store.job("k1").state is JobState.RECEIVED


def test_all_that_failed_are_tried_again_and_one_that_cannot_be_is_left(
    config: Path, store: JobStore
) -> None:
    for second, key in enumerate(("k1", "k2", "k3")):
        samples.submitted(store, key, second)
        job = store.claim("w", NOON, 60)
        assert job is not None and job.lease is not None
        store.fail(key, job.lease.token, NOON, "given up after a day: no space left on device")
    samples.submitted(store, "k4")
    done = commands.vald("retry", "--failed", "-c", config)
    assert (done.exit_code, done.stdout) == (0, "".join(f"k{n} is RECEIVED\n" for n in (1, 2, 3)))
    assert {store.job(f"k{n}").state for n in (1, 2, 3)} == {JobState.RECEIVED}
    assert commands.vald("retry", "--failed", "-c", config).stdout == ""


def test_a_film_that_a_fault_of_ours_was_decided_by_has_failed_and_is_decided_about_again(
    config: Path, store: JobStore
) -> None:
    for uid, decision in (("1.2.1", BROKEN), ("1.2.2", GONE), ("1.2.3", "not analysed: lateral")):
        number = store.receive(samples.film(uid, digest=uid)).number
        store.route(number, Decision(text=decision), None)
    found = json.loads(commands.vald("jobs", "--json", "-c", config).stdout)
    states = {film["source_sop_instance_uid"]: film["state"] for film in found}
    assert states == {"1.2.1": "FAILED", "1.2.2": "FAILED", "1.2.3": "REJECTED"}
    done = commands.vald("retry", "--failed", "-c", config)
    assert (done.exit_code, done.stdout) == (1, "1 film is decided about again\n")
    assert [film.sop_instance_uid for film in store.unrouted(10)] == ["1.2.1"]
    assert done.stderr == (
        "film 1.2.2 of CR1 is left: its kept file is gone; have the film sent again\n"
    )


def test_one_whose_file_was_gone_is_decided_about_again_where_it_is_back(
    config: Path, store: JobStore
) -> None:
    objects = wiring.open_objects(wiring.read_config(config, {}), store)
    back = replace(samples.film(), object=objects.keep("received/film.dcm", b"DICM"))
    store.route(store.receive(back).number, Decision(text=GONE), None)
    assert commands.vald("retry", "--failed", "-c", config).stdout == (
        "1 film is decided about again\n"
    )


def failed(store: JobStore, key: str) -> None:
    job, token = samples.running(store, key)
    store.fail(job.key, token, NOON, "no model")


def made_again(store: JobStore, key: str) -> None:
    """Its results were gone when they were to be sent, and to be made again; that failed."""
    samples.produced(store, key)
    for parcel in store.claim_deliveries("pacs", "s", NOON, 60, 10):
        store.refuse(parcel, NOON, "file gone")
    store.retry(key, NOON, [made.sop_instance_uid for made in store.results(key)])
    job = store.claim("w", NOON, 60)
    assert job is not None and job.lease is not None
    store.fail(job.key, job.lease.token, NOON, "no model")


def test_one_whose_film_and_results_are_gone_is_left_with_what_to_do(
    config: Path, store: JobStore
) -> None:
    made_again(store, "k1")
    failed(store, "k2")
    done = commands.vald("retry", "--failed", "-c", config)
    assert (done.exit_code, done.stdout) == (1, "k2 is RECEIVED\n")
    assert "k1 is left: 2 results of k1 are not kept any more" in done.stderr


def test_a_film_that_others_of_its_uid_came_after_is_left_with_what_to_do(
    config: Path, store: JobStore
) -> None:
    samples.came(store, samples.film(), 0, BROKEN)
    samples.came(store, samples.from_clinic(digest="b"), 1, "not analysed: lateral")
    why = "other bytes of its SOP Instance UID came later; have the film sent again"
    done = commands.vald("retry", "--failed", "-c", config)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"film 1.2.3 of CR1 is left: {why}\n"
    store.receive(replace(samples.film(), received_at=after(9)))
    assert commands.vald("retry", "--failed", "-c", config).exit_code == 0


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_tried_again(
    config: Path, store: JobStore
) -> None:
    objects = wiring.open_objects(wiring.read_config(config, {}), store)
    back = replace(samples.film("1.2.8"), object=objects.keep("received/film.dcm", b"DICM"))
    nowhere = samples.film("1.2.9", digest="x" * 300)  # no file system takes such a name
    for new in (nowhere, back):
        samples.came(store, new, 0, GONE)
    samples.came(store, samples.film("1.2.7", digest="y" * 300), 0, BROKEN)
    made_again(store, "k1")
    (config.parent / "var/objects/received/secon.dcm").mkdir()
    failed(store, "k2")
    done = commands.vald("retry", "--failed", "-c", config)
    assert done.stdout == "k2 is RECEIVED\n2 films are decided about again\n"
    assert done.exit_code == 1
    job, film = done.stderr.splitlines()
    assert job == "k1 is left: object received/secon.dcm: Is a directory"
    assert film.startswith("film 1.2.9 of CR1 is left: object received/xxx")
    assert film.endswith("File name too long; retry once that is mended")
    assert {film.sop_instance_uid for film in store.unrouted(9)} == {"1.2.7", "1.2.8"}


@pytest.mark.parametrize("asked", [(), ("k1", "--failed")])
def test_one_job_is_retried_or_all(config: Path, store: JobStore, asked: tuple[str, ...]) -> None:
    left(store, "FAILED")
    assert commands.vald("retry", *asked, "-c", config).exit_code == 2
    assert store.job("k1").state is JobState.FAILED


def test_a_terminal_obeys_nothing_that_a_sender_calls_itself(config: Path, store: JobStore) -> None:
    store.receive(replace(samples.film(), calling_ae_title="\x1b]0;CR1\x07\x9b"))
    shown = commands.vald("jobs", "--config", config).output
    assert "]0;CR1 " in shown
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)


def test_what_a_sender_calls_itself_is_text_not_markup(config: Path, store: JobStore) -> None:
    film = replace(samples.film(), calling_ae_title="[/red]X")
    number = store.receive(film).number
    store.route(number, Decision(text="not analysed: [bold]"), None)
    said = commands.vald("jobs", "--config", config)
    assert said.exit_code == 0, said.exception
    assert "[/red]X" in said.output
