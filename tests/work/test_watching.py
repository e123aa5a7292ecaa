"""A worker that hangs ends: of what its time runs, and of what it does not."""

import faulthandler
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_node.results import registry
from dicom_node.work.worker import Turn
from pipeline.errors import FilmError
from storage.jobs import Job
from storage.states import JobState
from tests.work.bench import AwayStore, Bench, FaultyEngine, Meanwhile


class Watch:
    """Whether the time of a film runs, of which faulthandler tells the interpreter."""

    runs: bool = False

    def start(self, *_: object, **__: object) -> None:
        self.runs = True

    def stop(self) -> None:
        self.runs = False


class WatchedStore(AwayStore):
    """One that is away as predecessors are looked for; whether time ran at each call."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.asked: list[bool] = []
        self._watch = watch

    def jobs(self, *args: Any, **kwargs: Any) -> list[Job]:
        self._be_away()
        return super().jobs(*args, **kwargs)

    def _be_away(self) -> None:
        self.asked.append(self._watch.runs)
        super()._be_away()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """It ends no process while it is looked at."""
    found = Watch()
    monkeypatch.setattr(faulthandler, "dump_traceback_later", found.start)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", found.stop)
    return found


def test_a_film_s_time_does_not_run_while_its_worker_waits_for_the_database(
    tmp_path: Path, watch: Watch
) -> None:
    store, at_work = WatchedStore(watch), []
    bench = Bench(tmp_path, store=store)
    bench.engine = Meanwhile(lambda: at_work.append(watch.runs))
    assert bench.turn() is Turn.DONE
    assert (bench.job.state, at_work, watch.runs) == (JobState.PRODUCED, [True], False)
    assert store.asked == [False] * 5  # thrice in vain


def test_the_time_of_a_note_counts(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, overrides={"pacs": ("not_analysed",)})
    bench.engine = FaultyEngine(FilmError("It shows no chest"))
    encode, at_work = registry.encode, []

    def watched(ds: pydicom.Dataset, compression: str) -> bytes:
        at_work.append(watch.runs)
        return encode(ds, compression)

    monkeypatch.setattr(registry, "encode", watched)
    bench.turn()
    assert (bench.job.state, at_work, watch.runs) == (JobState.REJECTED, [True], False)


def test_a_worker_that_hangs_ends_however_long_it_had_waited_for_others() -> None:
    program = textwrap.dedent("""
        import time
        from dicom_node.work.limit import Limit
        limit = Limit(0.5)
        with limit.kept():
            pass
        with limit.paused():
            time.sleep(1)
        with limit.kept():
            with limit.paused():
                time.sleep(1)
            print("waited", flush=True)
            time.sleep(60)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"waited\n")
    assert b"Timeout" in done.stderr
