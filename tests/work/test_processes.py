"""Children that die are told of, once each, and started again."""

import os
import resource
import signal
import threading
import time

from dicom_node import processes
from dicom_node.processes import Role, Supervisor

_LONG_S = 60.0


def hangs() -> None:
    """A child's main that does not end when it is told to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait(_LONG_S)


def dies() -> None:
    """A child's main that ends at once."""


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


def test_a_child_that_the_system_has_no_room_for_is_started_once_it_has() -> None:
    told: list[int] = []
    supervisor = Supervisor((Role(name="worker-1", main=dies, arguments=()),), told.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # no pipe to a child can be made
    try:
        supervisor.start()
        supervisor.watch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        watch_until(supervisor, told, 1)
    finally:
        supervisor.stop(5)


def test_a_child_that_is_killed_since_it_did_not_stop_is_no_death() -> None:
    died: list[int] = []
    stopped: list[int] = []
    role = Role(name="worker-1", main=hangs, arguments=())
    supervisor = Supervisor((role,), died.append, stopped.append)
    supervisor.start()
    supervisor.stop(0)
    assert (died, len(stopped)) == ([], 1)


def test_the_owner_of_a_process_is_no_beginning_of_another_owner() -> None:
    assert processes.owner(11112, "worker").startswith(processes.owner_of(11112, os.getpid()))
    assert processes.owner_of(11112, 7).startswith(processes.owners(11112))
    assert not processes.owner_of(11112, 77).startswith(processes.owner_of(11112, 7))
    assert not processes.owners(11112).startswith(processes.owners(1111))
