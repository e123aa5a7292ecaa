"""A destination that asks for everything gets everything, and a recalled model is taken back."""

from pathlib import Path

import pydicom
import pytest

from tests.peers import films, nodes, orthanc, tools
from tests.peers.test_round_trip import send

pytestmark = pytest.mark.peer


def test_a_research_destination_gets_every_kind_and_the_note_that_takes_them_back(
    tmp_path: Path, tiny_model: Path
) -> None:
    film = films.written(films.dx(), tmp_path)
    uid = pydicom.dcmread(film).SOPInstanceUID
    with orthanc.running(tmp_path / "orthanc") as pacs:
        everything = {
            "pacs": {
                "ae_title": orthanc.AE_TITLE,
                "host": "127.0.0.1",
                "port": pacs.dicom_port,
                "results": "research",
                "compression": "jpeg2000",
            }
        }
        node = nodes.write_config(
            tmp_path / "node", pacs.dicom_port, model=tiny_model, destinations=everything
        )
        with nodes.running(node):
            send(node, film)
            node.wait_for(uid, "DELIVERED")
            counts = pacs.counts()
            assert counts["SR"] >= 1
            digest = pacs.instances("SR")[0].DeviceSerialNumber
            notes_before = counts.get("KO", 0)
            done = node.run("retract", "--model", digest)
            assert done.returncode == 0, done.stderr
            tools.wait_until(
                lambda: pacs.counts().get("KO", 0) == notes_before + 1, 60, "the rejection note"
            )
            (picture,) = [
                d for d in pacs.instances("OT") if "VALD attribution," in d.SeriesDescription
            ]
            assert picture.file_meta.TransferSyntaxUID == pydicom.uid.JPEG2000Lossless
