"""A node that starts while the volume of its objects is not mounted: all waits until it is."""

from functools import partial
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from dicom_node import node as wiring
from dicom_node.intake.intake import Intake, ReceivedInstance
from pipeline import testing
from storage import migrate
from tests.intake.films import data_set_of
from tests.intake.sender import Told, association, store
from tests.peers import films, nodes, tools
from tests.peers.nodes import Node

_AGAIN = Told(status=0xA700, comment="storage is not available, try again later")


def take(node: Node, path: Path) -> str:
    """The film is received, by whoever may stand for the node; returns its UID."""
    settings, ds = wiring.read_config(node.config, {}), pydicom.dcmread(path)
    migrate.up(settings.storage.database)
    rows = wiring.open_store(settings)
    answer = Intake(rows, wiring.open_objects(settings, rows), wiring.now).accept(
        ReceivedInstance(
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
            calling_ae_title="CR1",
            address="127.0.0.1",
            data_set=data_set_of(path.read_bytes()),
        )
    )
    rows.close()
    assert answer.status == 0
    return str(ds.SOPInstanceUID)


def send(node: Node, ds: Dataset, folder: Path) -> Told | None:
    names = {"sop_class_uid": str(ds.SOPClassUID)}
    sent = films.written(ds, folder).read_bytes()
    with association(node.port, ds.file_meta.TransferSyntaxUID, **names) as assoc:
        return store(assoc, data_set_of(sent), sop_instance_uid=str(ds.SOPInstanceUID), **names)


def said(node: Node, event: str, words: str) -> bool:
    return any(event in line and words in line for line in node.log().splitlines())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    testing.write_tiny_model(tmp_path / "model")
    return nodes.write_config(tmp_path / "node", tools.free_port(), model=tmp_path / "model")


def test_a_node_that_starts_without_its_volume_takes_no_empty_folder_for_it(
    node: Node, tmp_path: Path
) -> None:
    uid = take(node, films.written(films.dx(), tmp_path))
    objects, away = node.folder / "var/objects", node.folder / "var/away"
    objects.rename(away)
    objects.mkdir()  # the mount point
    with nodes.running(node):
        tools.wait_until(partial(said, node, "tick failed", "volume is gone"), 240, "a look at it")
        tools.wait_until(partial(said, node, "worker ready", ""), 240, "the worker")
        assert send(node, films.dx(SOPInstanceUID="1.2.3.4"), tmp_path) == _AGAIN
        assert list(objects.iterdir()) == []
        assert "volume is gone" in node.run("reconcile").stderr
        objects.rmdir()
        away.rename(objects)
        node.wait_for(uid, "PRODUCED", within_s=240)
