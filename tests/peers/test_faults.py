"""What dies, and what must not be lost."""

import sys
import time
from pathlib import Path

import pydicom
import pytest
import yaml
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from tests.peers import films, nodes, orthanc, tools
from tests.peers.test_round_trip import send

pytestmark = pytest.mark.peer

_LISTENS_WITHIN_S, _TIMES_ITS_IMPORTS = 3.0, 3


@pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_a_node_killed_after_success_still_delivers_each_result_once(
    database: str, tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgres" else ""
    film = films.written(films.dx(), tmp_path)
    uid = pydicom.dcmread(film).SOPInstanceUID
    with orthanc.running(tmp_path / "orthanc") as pacs:
        node = nodes.write_config(
            tmp_path / "node", pacs.dicom_port, model=tiny_model, database=url
        )
        node.start()
        send(node, film)
        node.kill()
        with nodes.running(node):
            node.wait_for(uid, "DELIVERED")
            assert pacs.counts() == {"OT": 1, "SR": 1}
            node.kill()
            node.start()
            send(node, film)
            tools.wait_until(lambda: node.log().count("received") >= 2, 30, "the resend")
            assert pacs.counts() == {"OT": 1, "SR": 1}


def test_results_wait_for_a_pacs_that_is_away(tmp_path: Path, tiny_model: Path) -> None:
    port = tools.free_port()
    retry = {"first_delay_s": 1, "max_delay_s": 1, "jitter": 0}
    node = nodes.write_config(tmp_path / "node", port, model=tiny_model, delivery={"retry": retry})
    film = films.written(films.dx(), tmp_path)
    uid = pydicom.dcmread(film).SOPInstanceUID
    with nodes.running(node):
        send(node, film)
        node.wait_for(uid, "PRODUCED")
        tools.wait_until(
            lambda: any(d["attempts"] for d in node.of(uid)["deliveries"]), 30, "a first attempt"
        )
        assert node.of(uid)["state"] == "PRODUCED"
        with orthanc.running(tmp_path / "orthanc", dicom_port=port) as pacs:
            node.wait_for(uid, "DELIVERED")
            assert pacs.counts() == {"OT": 1, "SR": 1}


def test_the_node_listens_at_once_and_ends_with_status_0(tmp_path: Path, tiny_model: Path) -> None:
    node = nodes.write_config(tmp_path, tools.free_port(), model=tiny_model)
    in_time = []
    for _ in range(3):
        began = time.monotonic()
        tools.run(sys.executable, "-c", "import dicom_node.node, dicom_node.intake.scp")
        imports_s = time.monotonic() - began
        began = time.monotonic()
        with nodes.running(node):
            took_s = time.monotonic() - began
            assert tools.run("echoscu", "-aec", "VALD", "127.0.0.1", node.port).returncode == 0
            assert node.stop() == 0
        # The interpreter and its imports are in it; a busy machine takes its time over those too,
        # now more and now less.
        in_time.append(took_s < max(_LISTENS_WITHIN_S, _TIMES_ITS_IMPORTS * imports_s))
    assert any(in_time)


def test_bytes_that_are_no_data_set_are_refused_and_the_node_lives(
    tmp_path: Path, tiny_model: Path
) -> None:
    node = nodes.write_config(tmp_path, tools.free_port(), model=tiny_model)
    with nodes.running(node):
        for data_set in (b"\xff" * 50, b"\x08\x00\x16\x00UI\xff\xff1.2"):
            status, comment = _store_raw(node.port, data_set)
            assert 0xC000 <= status <= 0xCFFF
            assert comment
        assert tools.run("echoscu", "-aec", "VALD", "127.0.0.1", node.port).returncode == 0
        assert node.jobs() == []


def test_a_job_that_failed_is_tried_again_by_the_operator(tmp_path: Path, tiny_model: Path) -> None:
    """No decoder can be so quick, and jobs fail; once it is given time, the job passes."""
    film = films.written(films.dx(), tmp_path)
    uid = pydicom.dcmread(film).SOPInstanceUID
    with orthanc.running(tmp_path / "orthanc") as pacs:
        hasty = {"decode_timeout_s": 1e-6, "max_attempts": 1}
        node = nodes.write_config(tmp_path / "node", pacs.dicom_port, model=tiny_model, work=hasty)
        with nodes.running(node):
            send(node, film)
            failed = node.wait_for(uid, "FAILED")
            assert failed["error"] == "Decoding took longer than 1e-06 s. So it was 1 times."
            node.stop()
            keys = yaml.safe_load(node.config.read_text())
            del keys["work"]
            node.config.write_text(yaml.safe_dump(keys))
            node.start()
            assert node.of(uid)["state"] == "FAILED"  # until somebody asks for more
            done = node.run("retry", failed["key"][:10])
            assert done.returncode == 0, done.stderr
            node.wait_for(uid, "DELIVERED")


def _store_raw(port: int, data_set: bytes) -> tuple[int, str]:
    """C-STORE of any bytes whatever: what DCMTK would refuse to send."""
    from io import BytesIO

    sop_class = "1.2.840.10008.5.1.4.1.1.1"
    ae = AE(ae_title="CR1")
    ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
    assoc = ae.associate("127.0.0.1", port, ae_title="VALD")
    assert assoc.is_established
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = generate_uid()
    request.DataSet = BytesIO(data_set)
    assoc._reactor_checkpoint.clear()
    context = assoc.accepted_contexts[0].context_id
    assert context is not None
    assoc.dimse.send_msg(request, context)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assoc.release()
    assert isinstance(answer, C_STORE)
    assert answer.Status is not None
    return answer.Status, str(answer.ErrorComment or "")
