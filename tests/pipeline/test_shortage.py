"""What the machine lacks for the moment is told as that, and blamed on no model and no film."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import shortage, testing
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.errors import ModelError, ShortageError
from pipeline.types import Mode, Radiograph

pytestmark = pytest.mark.usefixtures("one_thread")

_HANDLES = "no file handle was free; raise the limit of open files (ulimit -n)"
_MEMORY = "too little memory was free; free some, or give it more"

_FILM = Radiograph(
    pixels=np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64), spacing_mm=(0.2, 0.2)
)

_LOADS = """
import json, os, resource, sys
from pathlib import Path
import torch
from pipeline import digest, folder, weights

def free_handles(number):
    taken = [os.dup(0)]
    while taken[-1] < len(os.listdir("/proc/self/fd")) - 2:
        taken.append(os.dup(0))
    return resource.RLIMIT_NOFILE, taken[-1] + 1 + number

def free_bytes(number):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return resource.RLIMIT_AS, pages * resource.getpagesize() + number

def tried(act, *limit):
    before = resource.getrlimit(limit[0])
    resource.setrlimit(limit[0], (limit[1], before[1]))
    try:
        act()
        found = "", ""
    except Exception as fault:
        found = type(fault).__name__, str(fault)
    resource.setrlimit(limit[0], before)
    return found

tiny = Path(sys.argv[1])
load = lambda: weights.load(tiny, torch.device("cpu"))
load()  # all is imported
print(json.dumps({
    "check, no handle": tried(lambda: folder.demand_usable(tiny), *free_handles(0)),
    "load, no handle": tried(load, *free_handles(0)),
    "load, one handle": tried(load, *free_handles(1)),
    "check, no memory": tried(lambda: folder.demand_usable(digest.EMBEDDED), *free_bytes(1 << 20)),
    "load, no memory": tried(
        lambda: weights.load(digest.EMBEDDED, torch.device("cpu")), *free_bytes(1 << 20)
    ),
    "load, enough of both": tried(load, *free_handles(100)),
}))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    testing.write_tiny_model(made)
    return made


@pytest.fixture(scope="module")
def told(tiny: Path) -> dict[str, tuple[str, str]]:
    """How loading ended in a process of its own that may have so much: class and message."""
    command = [sys.executable, "-c", _LOADS, str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, tuple[str, str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("when", "what"),
    [
        ("check, no handle", f"the model folder was not checked: {_HANDLES}"),
        ("load, no handle", f"the model was not loaded: {_HANDLES}"),
        ("load, one handle", f"the model was not loaded: {_HANDLES}"),
        ("check, no memory", f"the model folder was not checked: {_MEMORY}"),
        ("load, no memory", f"the model was not loaded: {_MEMORY}"),
    ],
)
def test_a_sound_folder_is_not_blamed_for_what_the_machine_lacks(
    told: dict[str, tuple[str, str]], when: str, what: str
) -> None:
    kind, said = told[when]
    assert kind == "ShortageError"
    assert said.startswith(what)


def test_the_same_process_loads_the_folder_once_there_is_enough(
    told: dict[str, tuple[str, str]],
) -> None:
    assert tuple(told["load, enough of both"]) == ("", "")


def test_memory_that_torch_does_not_get_on_the_cpu_is_not_blamed_on_the_film(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(tiny, "cpu")
    network = type(engine._model.autoencoder)

    def wants_too_much(*_: Any) -> torch.Tensor:
        return torch.empty(10**15)

    request = Request(film=_FILM, mode=Mode.CALIBRATED, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(network, "encode", wants_too_much)
        with pytest.raises(ShortageError) as caught:
            engine.explain([request])
    assert str(caught.value).startswith(f"the film was not analysed: {_MEMORY} (")
    assert "you tried to allocate 4000000000000000 bytes" in str(caught.value)
    assert len(engine.explain([request])) == 1  # the same film, once there is enough


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (MemoryError(), _MEMORY),
        (OSError(12, "Cannot allocate memory"), _MEMORY),
        (OSError(23, "Too many open files in system"), _HANDLES),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), _MEMORY),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), _MEMORY),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB"), _MEMORY),
        (RuntimeError("could not create a primitive"), _MEMORY),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "the devi"),
        (RuntimeError("can't start new thread"), "no thread was free"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_machine_s_faults_are_known_by_what_is_said(fault: Exception, what: str) -> None:
    assert shortage.lacking(fault).startswith(what)


@pytest.mark.parametrize(
    "fault",
    [
        FileNotFoundError(2, "No such file or directory", "unet/config.json"),
        OSError(5, "Input/output error", "unet/config.json"),
        RuntimeError("Error(s) in loading state_dict: size mismatch for conv_in.weight"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        ModelError("unet: unknown scheduler"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_any_other_fault_stays_what_it_is(fault: Exception) -> None:
    assert shortage.lacking(fault) == ""
    with pytest.raises(type(fault)) as caught, shortage.told("the model was not loaded"):
        raise fault
    assert caught.value is fault
