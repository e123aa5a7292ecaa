"""What only databases do: migrations, durability, refusals."""

import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from storage import engine, migrate
from storage.errors import StoreMismatchError, StoreUnavailableError
from storage.schema import metadata
from storage.sql import SqlJobStore
from tests.storage.samples import film


def test_migrations_make_exactly_the_tables_that_the_code_uses(url: str) -> None:
    migrate.up(url)
    database = engine.connect(url)
    with engine.reading(database) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.dispose()


def test_the_schema_goes_up_down_and_up_again(url: str) -> None:
    migrate.up(url)
    migrate.down(url, "base")
    with pytest.raises(StoreMismatchError, match="schema none"):
        SqlJobStore(url)
    migrate.up(url)
    SqlJobStore(url).close()


def test_processes_that_start_together_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.up, [url] * 4))
    SqlJobStore(url).close()


def test_rows_are_there_when_the_store_is_opened_again(url: str) -> None:
    migrate.up(url)
    first = SqlJobStore(url)
    first.receive(film())
    first.close()
    second = SqlJobStore(url)
    assert [f.sop_instance_uid for f in second.received(10)] == ["1.2.3"]
    second.close()


def test_a_process_killed_in_mid_write_leaves_every_committed_row(url: str) -> None:
    migrate.up(url)
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
        ("mysql://x/y", "not supported"),
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


def test_a_server_that_is_away_is_the_moments_fault_and_its_password_is_not_told() -> None:
    url = "postgresql+psycopg://vald:s3cret@127.0.0.1:1/vald"
    with pytest.raises(StoreUnavailableError) as fault:
        SqlJobStore(url)
    assert "s3cret" not in str(fault.value)
