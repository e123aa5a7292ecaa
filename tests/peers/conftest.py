"""One Orthanc and one node with a tiny model, shared by the tests that break neither."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import testing
from tests.peers import nodes, orthanc
from tests.peers.nodes import Node
from tests.peers.orthanc import Orthanc


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model folder that explains a film in a blink."""
    folder = tmp_path_factory.mktemp("tiny-model")
    testing.write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An empty Orthanc."""
    with orthanc.running(tmp_path_factory.mktemp("orthanc")) as started:
        yield started


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc, tiny_model: Path
) -> Iterator[Node]:
    """A running node that sends to `pacs`."""
    folder = tmp_path_factory.mktemp("node")
    with nodes.running(nodes.write_config(folder, pacs.dicom_port, model=tiny_model)) as started:
        yield started
