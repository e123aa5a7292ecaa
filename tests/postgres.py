"""What becomes of a PostgreSQL server that a test has started."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.peers import tools

_LONG_S = 120.0


def started(folder: Path) -> Any:
    """The server in that folder, by pgserver, which gives it 10 s: a busy machine may need more."""
    pgserver = pytest.importorskip("pgserver")
    try:
        return pgserver.get_server(folder, cleanup_mode="stop")
    except subprocess.TimeoutExpired:
        tools.wait_until(partial(_is_ready, folder), _LONG_S, "PostgreSQL")
        pgserver.PostgresServer._instances.pop(folder.resolve())  # which does not know that it runs
        return pgserver.get_server(folder, cleanup_mode="stop")


def start_again(server: Any) -> None:
    """One of `started` that was stopped."""
    try:
        server.ensure_postgres_running()
    except subprocess.TimeoutExpired:
        tools.wait_until(partial(_is_ready, server.pgdata), _LONG_S, "PostgreSQL")
        server.ensure_postgres_running()


def _is_ready(folder: Path) -> bool:
    said = folder / "postmaster.pid"
    return said.exists() and said.read_text().split()[-1:] == ["ready"]


@contextmanager
def silent(folder: Path) -> Iterator[None]:
    """The server in that folder, with every process of it, does nothing, and its sockets stay."""
    main = int((folder / "postmaster.pid").read_text().split()[0])
    stopped: list[int] = []
    try:
        while more := [one for one in (main, *_children(main)) if one not in stopped]:
            stopped.append(more[0])  # first the one that starts the others
            _tell(more[:1], signal.SIGSTOP)
        yield
    finally:
        _tell(stopped, signal.SIGCONT)


def _children(process: int) -> list[int]:
    """Those that it has now: all of them, once none begins or ends any more."""
    return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]


def _tell(processes: list[int], what: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # a session may just have ended
            os.kill(process, what)
