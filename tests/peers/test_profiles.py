"""A destination that asks for everything gets everything, and a recalled model is taken back."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_node.results import picture, registry
from tests.peers import films, nodes, orthanc, tools
from tests.peers.test_round_trip import send
from tests.results import sources

pytestmark = pytest.mark.peer

_INSIDE, _OUTSIDE = (75, 300), (10, 10)
"""Row and column within the bright box, and away from it."""
_EXPECTED = {
    "Secondary Capture Image Storage": 3,
    "Comprehensive SR Storage": 1,
    "Grayscale Softcopy Presentation State Storage": 1,
    "Segmentation Storage": 2,
    "Key Object Selection Document Storage": 1,
}
"""Of a plain film without a frame of reference: no Parametric Map."""


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
            assert pacs.classes() == _EXPECTED
            digest = pacs.instances("SR")[0].DeviceSerialNumber
            notes_before = counts.get("KO", 0)
            done = node.run("retract", "--model", digest)
            assert "results of 1 films rejected" in done.stdout
            assert done.returncode == 1  # not all is done while the node goes on with this model
            assert "set model.path to another" in done.stdout
            tools.wait_until(
                lambda: pacs.counts().get("KO", 0) == notes_before + 1, 60, "the rejection note"
            )
            (picture,) = [
                d for d in pacs.instances("OT") if "VALD attribution," in d.SeriesDescription
            ]
            assert picture.file_meta.TransferSyntaxUID == pydicom.uid.JPEG2000Lossless


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray | None]:
    """What Orthanc's own viewer draws of each result of a film with one bright box."""
    folder = tmp_path_factory.mktemp("drawn")
    context = sources.context_of(sources.located(), folder)
    given = dict.fromkeys(registry.kinds_for(context), context)
    given["not_analysed"] = sources.context_for("not_analysed", folder)
    with orthanc.running(folder / "orthanc") as pacs:
        return {
            kind: pacs.shown(pacs.post(registry.encode(registry.build(kind, of))))
            for kind, of in given.items()
        }


def test_orthanc_s_own_viewer_shows_captures_and_segmentations(
    drawn: dict[str, np.ndarray | None], tmp_path: Path
) -> None:
    capture = drawn["secondary_capture"]
    assert capture is not None
    layout = picture.layout(sources.context_of(sources.located(), tmp_path).radiograph)
    inside, outside = (layout.point(picture.OVERLAY, *place) for place in (_INSIDE, _OUTSIDE))
    assert np.ptp(capture[int(inside[0]), int(inside[1])].astype(int)) > 60
    assert np.ptp(capture[int(outside[0]), int(outside[1])].astype(int)) == 0
    for kind in ("overlay_capture", "counterpart_capture"):
        alone = drawn[kind]
        assert alone is not None
        assert alone.shape[2] == 3 and alone.max() > 200
    for kind in ("segmentation_regions", "segmentation_map"):
        mask = drawn[kind]
        assert mask is not None
        rows, columns = np.nonzero(mask)
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == sources.BOX


def test_orthanc_s_own_viewer_has_no_picture_of_the_other_results(
    drawn: dict[str, np.ndarray | None],
) -> None:
    assert {kind for kind, seen in drawn.items() if seen is None} == {
        "structured_report",
        "presentation_state",
        "parametric_map",
        "key_object_selection",
        "not_analysed",
    }
