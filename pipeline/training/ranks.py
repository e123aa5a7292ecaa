"""The processes that train one model together under `accelerate launch`; mostly there is one.

Each has a device and lessons of its own. Gradients are averaged, the first process's clock is
everybody's, and it alone writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import distributed

# The others wait for as long as the first makes a pool, which can be hours on a slow machine.
_PATIENCE = timedelta(days=2)


def join(device: str) -> str:
    """This process is one of its run's; returns the device that is its own."""
    state = _state(device)
    return str(state.device) if state.num_processes > 1 and device != "cpu" else device


def number() -> int:
    """Which of the run's processes this is, from 0."""
    return int(_state().process_index)


def is_first() -> bool:
    """Whether this is the process that writes and tells."""
    return number() == 0


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process does what follows, and then all others do: they find what it made."""
    with _state().main_process_first():
        yield


def of_the_first(value: float) -> float:
    """The first process's value, in all of them."""
    if _alone():
        return value
    shared = torch.tensor([value], dtype=torch.float32, device=_state().device)
    distributed.broadcast(shared, src=0)
    return float(shared)


@torch.no_grad()
def share_weights(model: torch.nn.Module) -> None:
    """Every process's model has the first one's weights."""
    if _alone():
        return
    for value in model.state_dict().values():
        dense = value.contiguous()
        distributed.broadcast(dense, src=0)
        value.copy_(dense)


def average_gradients(model: torch.nn.Module) -> None:
    """Every process has the mean of all their gradients."""
    if _alone():
        return
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        # A head that had nothing to learn in one process may have had in another.
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dense = grad.contiguous()
        distributed.all_reduce(dense)
        parameter.grad = dense / _state().num_processes


def _alone() -> bool:
    return int(_state().num_processes) == 1


def _state(device: str = "cpu") -> PartialState:
    """One for the process: where it was made before, as `join` does, the device is that one's."""
    return PartialState(cpu=device == "cpu", timeout=_PATIENCE)
