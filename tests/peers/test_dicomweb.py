"""A film goes from DCMTK through the node into Orthanc's DICOMweb plugin, committed by QIDO-RS."""

from pathlib import Path

import pydicom
import pytest

from tests.peers import films, nodes, orthanc, tools
from tests.peers.test_round_trip import send

pytestmark = pytest.mark.peer
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.mark.skipif(not _PLUGIN.exists(), reason="Orthanc's DICOMweb plugin is not installed")
def test_results_arrive_by_stow_rs_and_are_found_by_qido_rs(
    tmp_path: Path, tiny_model: Path
) -> None:
    film = films.written(films.dx(), tmp_path)
    uid = pydicom.dcmread(film).SOPInstanceUID
    with orthanc.running(tmp_path / "orthanc", plugins=[str(_PLUGIN)]) as pacs:
        url = f"http://127.0.0.1:{pacs.http_port}/dicom-web"
        node = nodes.write_config(
            tmp_path / "node",
            tools.free_port(),
            model=tiny_model,
            destinations={},
            dicomweb={"pacs": {"url": url, "commitment": "query", "confirm_study": True}},
        )
        with nodes.running(node):
            send(node, film)
            line = node.wait_for(uid, "COMMITTED")
            assert {d["status"] for d in line["deliveries"]} == {"HTTP 200"}
            assert pacs.counts() == {"OT": 1, "SR": 1}
