"""What only databases do: migrations, durability, refusals."""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url

from storage import engine, migrate
from storage.errors import StoreMismatchError, StoreUnavailableError
from storage.jobs import Decision, NewJob, ObjectRef, Proof
from storage.schema import metadata
from storage.sql import SqlJobStore, films
from storage.sql.database import insert_once
from storage.states import DeliveryState
from tests import postgres
from tests.peers.tools import wait_until
from tests.storage.samples import (
    NOON,
    after,
    film,
    from_clinic,
    kept,
    new_job,
    produced,
    result,
    running,
    submitted,
)


def together(script: str, copies: int) -> list[str]:
    """What each of several processes that run `script` at once has printed."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(copies)]
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0] * copies
    return said


def tables(url: str) -> Sequence[str]:
    database = engine.connect(url)
    with engine.reading(database) as connection:
        found = inspect(connection).get_table_names()
    database.dispose()
    return sorted(found)


def execute(url: str, statement: str) -> None:
    database = engine.connect(url)
    with engine.writing(database) as connection:
        connection.execute(text(statement))
    database.dispose()


def test_migrations_make_exactly_the_tables_that_the_code_uses(url: str) -> None:
    migrate.up(url)
    database = engine.connect(url)
    with engine.reading(database) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.dispose()


def test_the_schema_goes_up_down_and_up_again(url: str) -> None:
    migrate.up(url)
    assert tables(url) == [
        "alembic_version",
        "deliveries",
        "destinations",
        "jobs",
        "notices",
        "received",
        "results",
        "transactions",
    ]
    migrate.down(url, "base")
    assert tables(url) == ["alembic_version"]
    with pytest.raises(StoreMismatchError, match="schema none"):
        SqlJobStore(url)
    migrate.up(url)
    SqlJobStore(url).close()


def produced_in_every_state(store: SqlJobStore) -> None:
    """A job k4 with results that are HELD, COMMITTED and EXPIRED."""
    submitted(store, "k4", created_s=-1)
    job = store.claim("worker", NOON, 60)
    assert job is not None
    assert job.lease is not None
    made = [result("k4", "secondary_capture")]
    store.produce("k4", job.lease.token, NOON, made, ["held", "gone", "late"])
    store.hold("held", NOON)
    (parcel,) = store.claim_deliveries("gone", "s", NOON, 60, 10)
    store.delivered(parcel, NOON, "", "0000")
    store.commit("gone", [made[0].sop_instance_uid], NOON)
    store.expire("late", after(1), NOON, "too late")


def test_work_in_flight_outlives_an_upgrade_and_a_downgrade(url: str) -> None:
    migrate.up(url)
    store = SqlJobStore(url)
    produced(store, "k1")
    (parcel, _) = store.claim_deliveries("pacs", "s", NOON, 60, 10)
    running(store, "k2")
    submitted(store, "k3", created_s=1)
    produced_in_every_state(store)
    store.close()
    migrate.down(url, "0001")
    with pytest.raises(StoreMismatchError, match="schema 0001"):
        SqlJobStore(url)
    migrate.up(url)
    again = SqlJobStore(url)
    again.delivered(parcel, after(1), "", "0000", promised=True)
    assert {d.destination: str(d.state) for d in again.deliveries("k4")} == {
        "held": "DUE",  # nobody could release it there
        "gone": "COMMITTED",
        "late": "REFUSED",  # for the operator to send again
    }
    assert len(again.claim_deliveries("held", "s", after(2), 60, 10)) == 1
    assert str(again.retry("k4", after(2)).state) == "PRODUCED"
    assert [str(d.state) for d in again.deliveries("k1")] == ["DELIVERED", "DUE", "SENDING", "DUE"]
    assert again.job("k2").lease is not None
    assert len(again.ask("pacs", "2.25.1", after(2), after(9), 10)) == 1
    again.close()
    migrate.down(url, "0002")
    migrate.up(url)
    again = SqlJobStore(url)
    assert len(again.transaction("2.25.1").sop_instance_uids) == 1  # asked by the older program
    claimed = again.claim("w", after(3), 60)
    assert claimed is not None
    assert claimed.key == "k3"
    again.close()


def test_before_0005_a_film_has_one_sender_and_a_job_at_work_one_set_of_results(url: str) -> None:
    migrate.up(url)
    store = SqlJobStore(url)
    number = store.receive(film()).number
    promised = {"pacs": ("secondary_capture",), "clinic": ("structured_report",)}
    job = replace(new_job(), destinations=("pacs",), results=("secondary_capture",))
    said = Decision(text="analysed", job_key="k1")
    store.route(number, said, replace(job, promised=promised))
    store.receive(from_clinic())
    store.close()
    migrate.down(url, "0004")
    migrate.up(url)
    again = SqlJobStore(url)
    assert [(f.number, f.calling_ae_title) for f in again.received(9)] == [(number, "CR1")]
    found = again.job("k1")
    assert (found.destinations, found.promised) == (("pacs", "clinic"), {})
    assert found.results == ("secondary_capture", "structured_report")
    assert again.receive(from_clinic()).number > number
    again.close()


def down_to_0004(url: str, store: SqlJobStore) -> SqlJobStore:
    store.close()
    migrate.down(url, "0004")
    migrate.up(url)
    return SqlJobStore(url)


def clinics_job() -> NewJob:
    return replace(new_job(), calling_ae_title="CLINIC", promised={"clinic": ("picture",)})


@pytest.mark.parametrize("state", ["RECEIVED", "FAILED", "PRODUCED"])
def test_before_0005_the_one_row_of_a_film_is_that_which_needs_its_file(
    url: str, state: str
) -> None:
    """Else the first's, which no rule matched, would let the file go with the other's job open."""
    migrate.up(url)
    store = SqlJobStore(url)
    store.route(store.receive(film()).number, Decision(text="not analysed: no rule"), None)
    said = Decision(text="analysed", job_key="k1")
    store.route(store.receive(from_clinic()).number, said, clinics_job())
    if state != "RECEIVED":
        job = store.claim("w", NOON, 60)
        assert job is not None
        assert job.lease is not None
        end = {
            "FAILED": lambda token: store.fail("k1", token, NOON, "no model"),
            "PRODUCED": lambda token: store.produce(
                "k1", token, NOON, [result("k1", "picture")], ["clinic"]
            ),
        }
        end[state](job.lease.token)
    again = down_to_0004(url, store)
    assert [(f.decision, f.job_key) for f in again.received(9)] == [("analysed", "k1")]
    assert again.purgeable_received(after(9), Proof(), 9) == []
    again.close()


def test_before_0005_a_film_that_nobody_has_decided_about_is_not_lost(url: str) -> None:
    migrate.up(url)
    store = SqlJobStore(url)
    store.route(store.receive(film()).number, Decision(text="not analysed: no rule"), None)
    store.receive(from_clinic())
    again = down_to_0004(url, store)
    assert [f.calling_ae_title for f in again.unrouted(9)] == ["CLINIC"]
    again.close()


def test_before_0005_a_failed_job_too_owes_what_it_had_promised_to_anyone(url: str) -> None:
    migrate.up(url)
    store = SqlJobStore(url)
    said = Decision(text="analysed", job_key="k1")
    pacs = replace(new_job(), promised={"pacs": ("picture",)})
    store.route(store.receive(film()).number, said, pacs)
    job = store.claim("w", NOON, 60)
    assert job is not None
    assert job.lease is not None
    store.route(
        store.receive(from_clinic()).number,
        said,
        replace(clinics_job(), promised={"clinic": ("report",)}),
    )
    store.fail("k1", job.lease.token, NOON, "no model")
    again = down_to_0004(url, store)
    found = again.job("k1")
    assert (found.results, found.destinations) == (("picture", "report"), ("pacs", "clinic"))
    again.close()


def test_what_had_joined_before_0006_is_free_when_the_job_comes_to_nothing(url: str) -> None:
    migrate.up(url)
    store = SqlJobStore(url)
    _, token = running(store)
    for new in (film("1.2.1", "other"), film("1.2.1", "k1")):  # the second is its own
        number = store.receive(replace(new, received_at=after(9))).number
        store.route(number, Decision(text="received again", job_key="k1"), None)
    store.close()
    migrate.down(url, "0005")
    migrate.up(url)
    again = SqlJobStore(url)
    assert [film.arrived_at for film in again.received(9)] == [after(9), NOON]
    again.reject("k1", token, after(10), "cut short")
    assert [film.object.name for film in again.unrouted(9)] == ["received/other.dcm"]
    again.close()


@pytest.mark.parametrize("revision", ["0005", "0006"])
def test_a_film_that_came_before_its_job_s_own_had_joined_it_too(url: str, revision: str) -> None:
    """It had failed, another took the job, and it came again, when nobody wrote that down."""
    migrate.up(url)
    store = SqlJobStore(url)
    _, token = running(store)
    store.fail("k1", token, after(1), "damaged")
    other = store.receive(film("1.2.1", "other")).number
    anew = replace(new_job(uid="1.2.1"), object=kept("other"))
    store.route(other, Decision(text="analysed anew", job_key="k1"), anew)
    job = store.claim("w", after(2), 60)
    store.route(1, Decision(text="received again", job_key="k1"), None)
    store.close()
    migrate.down(url, revision)
    if revision == "0006":
        execute(url, "UPDATE received SET joined = false, arrived_at = NULL")
    migrate.up(url)
    again = SqlJobStore(url)
    assert job is not None
    assert job.lease is not None
    again.reject("k1", job.lease.token, after(10), "cut short")
    assert [film.number for film in again.unrouted(9)] == [1]
    again.close()


def test_what_was_promised_before_0008_is_known_by_what_was_asked(url: str) -> None:
    migrate.up(url)
    store, places = SqlJobStore(url), ["asked", "dropped", "none", "old"]
    job, token = running(store)
    store.produce("k1", token, NOON, [result("k1", kind) for kind in job.results], places)
    for place in places:
        for parcel in store.claim_deliveries(place, "s", NOON, 60, 10):
            store.delivered(parcel, NOON, "", "0000", promised=place != "none")
    store.ask("asked", "2.25.1", after(1), after(99), 1)  # the other one's turn comes
    store.ask("dropped", "2.25.2", after(1), after(99), 10)
    store.drop_deliveries("dropped", after(2), "no more")
    store.ask("old", "2.25.3", after(1), after(99), 10)
    store.move_deliveries("old", "new", after(2), asked=DeliveryState.DELIVERED)
    before = store.deliveries("k1")
    store.close()
    migrate.down(url, "0007")
    migrate.up(url)
    again = SqlJobStore(url)
    assert again.deliveries("k1") == before
    assert again.asked_counts() == {"asked": 2, "new": 2}
    again.close()


def test_processes_that_start_together_migrate_once(url: str) -> None:
    together(f"from storage import migrate; migrate.up({url!r})", copies=3)
    SqlJobStore(url).close()


def test_a_schema_of_a_newer_program_is_left_alone(ready_url: str) -> None:
    execute(ready_url, "UPDATE alembic_version SET version_num = '9999'")
    try:
        for step in (migrate.up, SqlJobStore):
            with pytest.raises(StoreMismatchError, match="9999"):
                step(ready_url)
    finally:
        newest = migrate.status(ready_url).known[-1]
        execute(ready_url, f"UPDATE alembic_version SET version_num = '{newest}'")


def test_an_unknown_revision_is_refused(sqlite_ready: str) -> None:
    with pytest.raises(StoreMismatchError, match="migrations"):
        migrate.down(sqlite_ready, "no-such")


def test_an_installation_without_migrations_opens_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an empty database would seem to be at the head of nothing."""
    (tmp_path / "scripts" / "versions").mkdir(parents=True)
    monkeypatch.setattr(migrate, "_SCRIPTS", tmp_path / "scripts")
    with pytest.raises(StoreMismatchError, match="install it whole"):
        SqlJobStore(f"sqlite:///{tmp_path}/jobs.db")


def test_no_two_processes_claim_the_same_job(ready_url: str) -> None:
    store = SqlJobStore(ready_url)
    for n in range(50):
        submitted(store, f"k{n:02}")
    store.close()
    script = f"""
        from storage.sql import SqlJobStore
        from tests.storage.samples import NOON
        store = SqlJobStore({ready_url!r})
        while job := store.claim("w", NOON, 60):
            print(job.key)
    """
    said = together(script, copies=2)
    assert sorted(" ".join(said).split()) == [f"k{n:02}" for n in range(50)]


def test_rows_are_there_when_the_store_is_opened_again(ready_url: str) -> None:
    first = SqlJobStore(ready_url)
    job, token = running(first)
    first.close()
    second = SqlJobStore(ready_url)
    assert second.job("k1") == job
    second.fail("k1", token, job.updated_at, "the lease outlived the program")
    second.close()


def test_a_process_killed_in_mid_write_leaves_every_committed_row(ready_url: str) -> None:
    url = ready_url
    script = textwrap.dedent(f"""
        from storage.sql import SqlJobStore
        from tests.storage.samples import film
        store = SqlJobStore({url!r})
        for n in range(100000):
            store.receive(film(f"1.2.{{n}}"))
            print(n, flush=True)
    """)
    command = [sys.executable, "-c", script]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().splitlines() if line]
    child.wait()
    store = SqlJobStore(url)
    found = {film.sop_instance_uid for film in store.received(100000)}
    store.close()
    assert {f"1.2.{n}" for n in said} <= found


def test_sqlite_commits_are_synced_to_the_disk(tmp_path: Path) -> None:
    database = engine.connect(f"sqlite:///{tmp_path}/jobs.db")
    with engine.reading(database) as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    database.dispose()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("mysql://x/y", "mysql is not supported"),
        ("postgresql+psycopg2://x/y", "psycopg2 is not supported"),
        ("sqlite:////dev/null/folder/jobs.db", "Not a directory"),
        ("no url", "no database URL"),
        ("sqlite://", "needs a file"),
    ],
)
def test_a_database_that_cannot_serve_is_refused_in_words(wrong: str, why: str) -> None:
    with pytest.raises(StoreMismatchError, match=why):
        engine.connect(wrong)


def test_a_network_file_system_is_known_by_its_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nnas:/x /srv/pacs nfs4 rw 0 0\n")
    assert engine._file_system(Path("/srv/pacs/vald"), mounts) == "nfs4"
    assert engine._file_system(Path("/srv/pacsother"), mounts) == "ext4"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nnas:/x /srv/my\\040films cifs rw 0 0\n")
    assert engine._file_system(Path("/srv/my films/vald"), mounts) == "cifs"


def test_sqlite_on_a_network_file_system_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_file_system", lambda _: "nfs4")
    with pytest.raises(StoreMismatchError, match="is on nfs4; SQLite needs a local disk"):
        engine.connect(f"sqlite:///{tmp_path}/new/jobs.db")
    assert not (tmp_path / "new").exists()


def test_a_locked_database_is_the_moments_fault(
    sqlite_ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_BUSY_TIMEOUT_S", 0.01)
    store, other = SqlJobStore(sqlite_ready), engine.connect(sqlite_ready)
    with engine.writing(other), pytest.raises(StoreUnavailableError, match="locked"):
        store.receive(film())
    assert store.received(10) == []
    store.receive(film())
    assert len(store.received(10)) == 1
    store.close()
    other.dispose()


def test_a_naive_time_is_the_callers_fault_and_no_row_is_told(ready_url: str) -> None:
    store = SqlJobStore(ready_url)
    naive = replace(film(), received_at=datetime(2026, 3, 1, 12))  # noqa: DTZ001 - the fault
    with pytest.raises(ValueError, match="aware") as fault:
        store.receive(naive)
    assert "10.0.0.5" not in f"{fault.value}{fault.value.__cause__}"
    store.close()


@pytest.mark.postgres
def test_a_value_that_the_table_cannot_hold_is_the_callers_fault(postgres_ready: str) -> None:
    store = SqlJobStore(postgres_ready)
    with pytest.raises(ValueError, match="too long"):
        store.receive(replace(film(), calling_ae_title="seventeen letters"))
    store.close()


def test_a_server_that_is_away_is_the_moments_fault_and_its_password_is_not_told() -> None:
    url = "postgresql+psycopg://vald:s3cret@127.0.0.1:1/vald"
    with pytest.raises(StoreUnavailableError) as fault:
        SqlJobStore(url)
    assert "s3cret" not in str(fault.value)


@pytest.mark.postgres
def test_a_server_that_stands_still_is_given_up_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_CONNECT_TIMEOUT_S", 2)
    folder = tmp_path_factory.mktemp("stopped")
    server = postgres.started(folder)
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    try:
        migrate.up(url)
        store = SqlJobStore(url)
        store.receive(film("1.2.1"))
        with monkeypatch.context() as hasty, postgres.silent(folder):
            hasty.setattr(engine, "_ANSWER_S", 1.0)
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="database"):
                store.waiting()
            with pytest.raises(StoreUnavailableError):
                store.receive(film("1.2.2"))
            assert time.monotonic() - began < 15
        assert [f.sop_instance_uid for f in store.received(9)] == ["1.2.1"]
        store.close()
    finally:
        server.cleanup()


@pytest.mark.postgres
def test_a_commit_is_durable_and_no_statement_endless_whatever_the_server_is_set_to(
    postgres_ready: str,
) -> None:
    database = engine.connect(postgres_ready)
    with engine.reading(database) as connection:
        found = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("synchronous_commit", "statement_timeout", "lock_timeout")
        }
    database.dispose()
    assert found == {
        "synchronous_commit": "on",
        "statement_timeout": "20s",
        "lock_timeout": "10s",
    }


@pytest.mark.postgres
@pytest.mark.parametrize("default", ["repeatable read", "serializable"])
def test_a_film_that_comes_while_its_bytes_are_purged_keeps_them_whatever_the_server_isolates(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, default: str
) -> None:
    migrate.up(postgres_url)
    name = make_url(postgres_url).database
    execute(postgres_url, f"ALTER DATABASE {name} SET default_transaction_isolation='{default}'")
    store, removed, purged = SqlJobStore(postgres_url), list[ObjectRef](), list[bool]()
    old = store.receive(film("1.2.1"))
    store.route(old.number, Decision(text="not analysed"), None)

    def purge() -> None:
        purged.append(store.purge_received(old, after(1), Proof(), after(2), removed.append))

    other = Thread(target=purge)

    def insert_slowly(*row: Any) -> None:
        insert_once(*row)
        other.start()
        wait_until(lambda: waits_for_a_lock(postgres_url), 10, "the purge")

    monkeypatch.setattr(films, "insert_once", insert_slowly)
    store.receive(replace(film("1.2.1"), calling_ae_title="CR2", received_at=after(1)))
    other.join()
    store.close()
    assert (purged, removed) == ([False], [])


def waits_for_a_lock(url: str) -> bool:
    """Whether a session of the database does."""
    database = engine.connect(url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with engine.reading(database) as connection:
        number = connection.exec_driver_sql(waiting).scalar_one()
    database.dispose()
    return bool(number)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_file_that_was_deleted_or_replaced_takes_no_row(
    sqlite_ready: str, tmp_path: Path, replaced: bool
) -> None:
    store = SqlJobStore(sqlite_ready)
    store.receive(film("1.2.1"))
    (tmp_path / "jobs.db").rename(tmp_path / "away.db")
    if replaced:
        (tmp_path / "jobs.db").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="deleted or replaced"):
            store.receive(film("1.2.2"))
    assert (tmp_path / "jobs.db").exists() == replaced
    (tmp_path / "away.db").rename(tmp_path / "jobs.db")
    store.receive(film("1.2.3"))
    assert [f.sop_instance_uid for f in store.received(9)] == ["1.2.3", "1.2.1"]
    store.close()


def test_a_server_has_a_clock_of_its_own_and_a_file_has_ours(ready_url: str) -> None:
    store = SqlJobStore(ready_url)
    ahead_s = store.ahead_s(datetime.now(UTC) + timedelta(hours=1))
    store.close()
    assert ahead_s == pytest.approx(3600 if ready_url.startswith("postgres") else 0, abs=5)
