from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline import testing


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model folder that explains a film in a blink."""
    folder = tmp_path_factory.mktemp("tiny-model")
    testing.write_tiny_model(folder)
    return folder


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more by waiting for other threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
