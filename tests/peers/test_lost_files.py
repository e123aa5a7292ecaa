"""Kept files that are gone: what is made again, for whom, and what cannot be."""

import hashlib
import shutil
from pathlib import Path

import pydicom
import pytest

from tests.peers import films, nodes, orthanc, tools
from tests.peers.nodes import Node
from tests.peers.orthanc import Orthanc
from tests.peers.test_round_trip import send

pytestmark = [pytest.mark.peer, pytest.mark.timeout(900)]

_LONG_S = 300
"""A worker loads its model; a busy machine takes its time."""


def configured(folder: Path, model: Path, pacs_port: int, archive_port: int) -> Node:
    places = {
        name: {"ae_title": orthanc.AE_TITLE, "host": "127.0.0.1", "port": port}
        for name, port in (("pacs", pacs_port), ("archive", archive_port))
    }
    node = nodes.write_config(
        folder,
        pacs_port,
        model=model,
        destinations=places,
        delivery={"retry": {"first_delay_s": 1, "max_delay_s": 1, "jitter": 0}},
    )
    text = node.config.read_text().replace("- pacs\n", "- pacs\n  - archive\n")
    node.config.write_text(text)
    return node


def digests(pacs: Orthanc) -> list[str]:
    return sorted(hashlib.sha256(held).hexdigest() for held in pacs.files())


def states(node: Node, uid: str, destination: str) -> set[str]:
    deliveries = node.of(uid)["deliveries"]
    return {d["state"] for d in deliveries if d["destination"] == destination}


def retried(node: Node, uid: str) -> tuple[int, str]:
    done = node.run("retry", str(node.of(uid)["key"])[:12])
    return done.returncode, done.stdout + done.stderr


def test_results_whose_files_are_gone_are_made_again_for_those_who_have_none(
    tmp_path: Path, tiny_model: Path
) -> None:
    film = films.written(films.dx(), tmp_path)
    uid = str(pydicom.dcmread(film).SOPInstanceUID)
    archive_port = tools.free_port()
    with orthanc.running(tmp_path / "pacs") as pacs:
        node = configured(tmp_path / "node", tiny_model, pacs.dicom_port, archive_port)
        with nodes.running(node):
            send(node, film)
            tools.wait_until(
                lambda: (
                    node.of(uid).get("state") == "PRODUCED"
                    and states(node, uid, "pacs") == {"DELIVERED"}
                ),
                _LONG_S,
                "the pacs to have both",
            )
            had, uids = digests(pacs), pacs.uids()
            shutil.rmtree(node.folder / "var" / "objects" / "results")
            with orthanc.running(tmp_path / "archive", dicom_port=archive_port) as archive:
                tools.wait_until(
                    lambda: states(node, uid, "archive") == {"REFUSED"},
                    _LONG_S,
                    "no file to be found",
                )
                films_folder = node.folder / "var" / "objects" / "received"
                films_folder.rename(tmp_path / "elsewhere")
                status, said = retried(node, uid)
                assert (status, "have the film sent again" in said) == (1, True), said
                assert node.of(uid)["state"] == "PRODUCED"
                send(node, film)
                status, said = retried(node, uid)
                assert (status, "2 of its results are made again" in said) == (0, True), said
                node.wait_for(uid, "DELIVERED", within_s=_LONG_S)
                assert sorted(archive.uids()) == sorted(uids)
            assert digests(pacs) == had
            attempts = [
                d["attempts"] for d in node.of(uid)["deliveries"] if d["destination"] == "pacs"
            ]
            assert attempts == [1, 1]
