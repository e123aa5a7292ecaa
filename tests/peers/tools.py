"""DCMTK and dicom3tools as programs of this machine, ports, and waiting with an end."""

import functools
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_POLL_S = 0.1
_REST = 4  # times as long as a look took
_FIRST_PORT, _LAST_PORT, _BLOCK = 10_000, 60_000, 200


def find(name: str, *folders: str) -> str:
    """The system's program, not the one of the same name that pynetdicom puts beside Python."""
    found = shutil.which(name, path=":".join((*folders, "/usr/bin", "/usr/local/bin")))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The program's exit status and output."""
    command = [find(name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def dciodvfy_errors(path: Path) -> set[str]:
    """The errors, not the warnings, that dciodvfy finds in a file."""
    program = find("dciodvfy", str(Path(sys.executable).parent))
    done = subprocess.run(
        [program, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


@functools.cache
def _ports(_of_process: int) -> tuple[socket.socket, Iterator[int]]:
    """What holds a block of ports for this process, until it ends; and the ports, round and round.

    The system gives them to nobody of itself, neither to who connects, nor to who lets it choose;
    but where it is told to choose from all there are.
    """
    token = socket.socket(type=socket.SOCK_DGRAM)  # the block's first UDP port, not used else
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = lowest if lowest >= _FIRST_PORT + _BLOCK else _LAST_PORT
    for first in range(_FIRST_PORT, end - _BLOCK + 1, _BLOCK):
        if _binds(token, first):
            return token, itertools.cycle(range(first, first + _BLOCK))
    raise AssertionError(f"all blocks of ports from {_FIRST_PORT} to {end} are held")


def _binds(there: socket.socket, port: int) -> bool:
    try:
        there.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _can_be_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        return _binds(probe, port)


def free_port() -> int:
    """A port that nothing listens on, and that nobody else is given while this process lives."""
    _, ports = _ports(os.getpid())
    return next(filter(_can_be_listened_on, ports))


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    holds: Callable[[], bool], within_s: float, what: str, every_s: float = _POLL_S
) -> None:
    """Return once `holds`; fail the test where it does not within the time.

    Looking takes a fifth of the time at most: what is waited for needs the processor too.
    """
    deadline = time.monotonic() + within_s
    while not (seen := _timed(holds))[0]:
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s} s for {what}")
        threading.Event().wait(max(every_s, _REST * seen[1]))


def _timed(look: Callable[[], bool]) -> tuple[bool, float]:
    """What was seen, and the seconds that looking took."""
    begun = time.monotonic()
    return look(), time.monotonic() - begun
