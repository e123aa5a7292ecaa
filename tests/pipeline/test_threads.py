"""Several threads compute one film; where others use the cores too, they wait asleep."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

_COMPUTES = """
import sys, time
import pipeline
import torch
from torch import nn

layers = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(200)))
film = torch.zeros(1, 16, 64, 64)

def cpu_s(threads):
    torch.set_num_threads(threads)
    layers(film)
    began = time.process_time()
    for _ in range(3):
        layers(film)
    return time.process_time() - began

with torch.inference_mode():
    print(min(cpu_s(int(sys.argv[1])) / cpu_s(1) for _ in range(3)))
"""
_CORES = len(os.sched_getaffinity(0))
_MOST = 2.0
"""Measured on two cores: 1.2 to 1.6 where threads sleep, 3 to 9 where they spin.

The best of three: what else the machine has to do may make one worse, and none of theirs better.
"""


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Each core has something else to do."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(_CORES)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_beside_other_work_many_threads_cost_little_more_than_one() -> None:
    with busy_cores():
        done = subprocess.run(
            [sys.executable, "-c", _COMPUTES, str(_CORES)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    assert float(done.stdout) < _MOST
