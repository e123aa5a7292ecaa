"""Children that die are told of, once each, and started again."""

import os
import threading
import time

from dicom_node import processes
from dicom_node.processes import Role, Supervisor

_LONG_S = 60.0


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


def test_the_owner_of_a_process_is_no_beginning_of_another_owner() -> None:
    assert processes.owner(11112, "worker").startswith(processes.owner_of(11112, os.getpid()))
    assert processes.owner_of(11112, 7).startswith(processes.owners(11112))
    assert not processes.owner_of(11112, 77).startswith(processes.owner_of(11112, 7))
    assert not processes.owners(11112).startswith(processes.owners(1111))
