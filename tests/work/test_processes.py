"""Children that die are told of, once each, and started again."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from structlog.testing import capture_logs

from dicom_node import processes
from dicom_node.processes import Role, Supervisor
from tests.peers import tools

_LONG_S = 60.0


def hangs(told: str) -> None:
    """A child's main that does not end when it is told to; a file is there from when it is so."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(told).touch()
    threading.Event().wait(_LONG_S)


def dies() -> None:
    """A child's main that ends at once."""


_TOLD_WHILE_IT_HOLDS_THE_LOCK = """
import os, signal, time
from dicom_node import processes

stop = processes.stop_event()
with stop._cond:  # as within its own wait()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
stop.wait()
"""


def test_a_signal_that_meets_the_wait_for_it_is_heeded() -> None:
    command = [sys.executable, "-c", _TOLD_WHILE_IT_HOLDS_THE_LOCK]
    assert subprocess.run(command, check=False, timeout=_LONG_S).returncode == 0


def watch_until(supervisor: Supervisor, told: list[int], number: int) -> None:
    deadline = time.monotonic() + _LONG_S
    while len(told) < number:
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
        supervisor.watch()


def test_each_death_is_told_once_with_its_process_id_and_the_child_started_again() -> None:
    told: list[int] = []
    supervisor = Supervisor((Role(name="worker-1", main=dies, arguments=()),), told.append)
    supervisor.start()
    try:
        watch_until(supervisor, told, 2)
    finally:
        supervisor.stop(5)
    assert len(set(told)) == len(told)
    assert os.getpid() not in told


def test_a_child_that_cannot_be_started_for_now_is_started_later() -> None:
    """No file handle is left, as when a receiver has many connections; nor for the first start."""
    told: list[int] = []
    supervisor = Supervisor((Role(name="worker-1", main=dies, arguments=()),), told.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with capture_logs() as logs:
            supervisor.start()
            supervisor.watch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {(line["event"], line["role"]) for line in logs} == {("process not started", "worker-1")}
    try:
        watch_until(supervisor, told, 1)
    finally:
        supervisor.stop(5)


def test_a_child_that_is_killed_since_it_did_not_stop_is_no_death(tmp_path: Path) -> None:
    died: list[int] = []
    stopped: list[int] = []
    told = tmp_path / "told"
    role = Role(name="worker-1", main=hangs, arguments=(str(told),))
    supervisor = Supervisor((role,), died.append, stopped.append)
    supervisor.start()
    try:
        tools.wait_until(told.exists, _LONG_S, "the child to run")
    finally:
        supervisor.stop(0)
    assert (died, len(stopped)) == ([], 1)


def test_a_supervisor_whose_child_was_never_started_can_be_stopped() -> None:
    supervisor = Supervisor((Role(name="worker-1", main=dies, arguments=()),))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        supervisor.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    supervisor.stop(5)


def test_the_owner_of_a_process_is_no_beginning_of_another_owner() -> None:
    assert processes.owner(11112, "worker").startswith(processes.owner_of(11112, os.getpid()))
    assert processes.owner_of(11112, 7).startswith(processes.owners(11112))
    assert not processes.owner_of(11112, 77).startswith(processes.owner_of(11112, 7))
    assert not processes.owners(11112).startswith(processes.owners(1111))
