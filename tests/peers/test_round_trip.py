"""Films go from DCMTK's storescu through a running node into Orthanc, and come back described."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from tests.peers import converters, films, nodes, orthanc, tools
from tests.peers.nodes import Node
from tests.peers.orthanc import Orthanc

pytestmark = pytest.mark.peer

# storescu proposes compressed syntaxes only where it is told to.
_PROPOSE = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}

# What becomes of each real film by the shipped guards and the embedded model.
_ANALYSED_WITHIN_S = 240
"""Five films by the embedded model, on a machine that does other things too."""

_ENDS = {
    "rg1-chest-philips-mono1-15bit-jpeg2000": "DELIVERED",
    "cr-mono1-10-chest-fuji-no-preamble": "DELIVERED",
    "nih-dx-chest-no-finding": "DELIVERED",
    "nih-dx-chest-effusion": "DELIVERED",
    "siim-cr-chest-mono2-jpeg-baseline": "DELIVERED",
    "rg3-ankle-fuji-mono1-10bit-jpeg2000": "REJECTED",
    "rg3-ankle-fuji-mono1-10bit-rle": "REJECTED",
    "rg2-hip-fuji-mono2-jpeg-extended": "REJECTED",
    "nih-modality-ct-mislabelled": "REJECTED",
    "nih-dx-bodypart-ribcage": "REJECTED",
}


def send(node: Node, path: Path, calling: str = "CR1") -> None:
    """By DCMTK's storescu, which says what status it got."""
    meta = pydicom.dcmread(path, stop_before_pixels=True, force=True).file_meta
    syntax = str(meta.get("TransferSyntaxUID", ""))
    flags = [_PROPOSE[syntax]] if syntax in _PROPOSE else []
    done = tools.run(
        "storescu", "-v", *flags, "-aet", calling, "-aec", "VALD", "127.0.0.1", node.port, path
    )
    assert done.returncode == 0, done.stderr
    assert "Received Store Response (Success)" in done.stdout + done.stderr


def read(path: Path) -> Dataset:
    """The header, also of a file without preamble."""
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def results_of(pacs: Orthanc, source: Dataset) -> tuple[Dataset, Dataset]:
    """The SC and the SR about a film, as the PACS has them."""
    about, study = source.SOPInstanceUID.encode(), pacs.files_of_study(source.StudyInstanceUID)
    mine = [pydicom.dcmread(BytesIO(part10)) for part10 in study if about in part10]
    capture, report = sorted(
        (made for made in mine if made.Modality in ("OT", "SR")), key=lambda made: made.Modality
    )
    return capture, report


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc) -> Iterator[Node]:
    """A running node with the shipped model, whose image gate has a say too."""
    folder = tmp_path_factory.mktemp("embedded")
    with nodes.running(nodes.write_config(folder, pacs.dicom_port)) as started:
        yield started


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.written(films.dx(), tmp_path_factory.mktemp("film"))


def test_a_film_comes_back_to_its_study_as_picture_and_report(
    node: Node, pacs: Orthanc, film: Path, tmp_path: Path
) -> None:
    send(node, film)
    source = pydicom.dcmread(film)
    node.wait_for(source.SOPInstanceUID, "DELIVERED")
    listed = node.run("jobs", "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout) == node.jobs()
    capture, report = results_of(pacs, source)
    for made in (capture, report):
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.PatientID == source.PatientID
        assert made.SeriesInstanceUID != source.SeriesInstanceUID
        path = tmp_path / f"{made.Modality}.dcm"
        made.save_as(path)
        assert tools.dciodvfy_errors(path) <= tools.dciodvfy_errors(film)
    assert capture.SyntheticData == "YES"
    dump = tools.run("dsrdump", tmp_path / "SR.dcm")
    assert dump.returncode == 0
    assert "Imaging Measurement" in dump.stdout


def test_a_resend_in_another_transfer_syntax_is_the_same_job(
    node: Node, pacs: Orthanc, film: Path, tmp_path: Path
) -> None:
    uid = pydicom.dcmread(film).SOPInstanceUID
    send(node, film)
    node.wait_for(uid, "DELIVERED")
    before = pacs.counts()
    for tool, flag in (("dcmcrle", None), ("dcmconv", "+tb"), ("dcmcjpeg", "+e1")):
        path = tmp_path / f"{tool}.dcm"
        assert tools.run(tool, *([flag] if flag else []), film, path).returncode == 0
        send(node, path)
    tools.wait_until(lambda: "received again" in node.log(), 30, "the resend to be routed")

    def own() -> list[str]:
        return [job["key"] for job in node.jobs() if job["source_sop_instance_uid"] == uid]

    tools.wait_until(lambda: all(own()), 60, "every resend to be routed")
    assert len(own()) == 1
    assert pacs.counts() == before


def test_the_same_film_of_a_corrected_patient_is_another_job(
    film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Orthanc has the film too, and keeps the study of each patient."""
    with orthanc.running(tmp_path / "orthanc") as pacs:
        node = nodes.write_config(tmp_path / "node", pacs.dicom_port, model=tiny_model)
        with nodes.running(node):
            ds = pydicom.dcmread(film)
            for patient in (ds.PatientID, "CORRECTED"):
                ds.PatientID = patient
                corrected = films.written(ds, tmp_path)
                pacs.post(corrected.read_bytes())
                send(node, corrected)
            tools.wait_until(
                lambda: [j["state"] for j in node.all_of(ds.SOPInstanceUID)] == ["DELIVERED"] * 2,
                120,
                f"a second job; {node.all_of(ds.SOPInstanceUID)}",
            )


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Modality": "CT"}, "Modality is CT"),
        ({"BodyPartExamined": "HIP"}, "HIP"),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"PatientAge": "004Y"}, "paediatric"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"SyntheticData": "YES"}, "synthetic"),
        ({"NumberOfFrames": 2}, "frame"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
        ({"PixelData": b"\0" * 100}, "pixel"),
        ({"PixelData": b"\7\0" * 1024 * 1024}, "constant"),
        ({"Rows": 64}, "pixels"),
    ],
)
def test_what_is_not_analysed_is_taken_and_says_why(
    node: Node, tmp_path: Path, attributes: dict[str, object], reason: str
) -> None:
    ds = films.dx(**attributes)
    send(node, films.written(ds, tmp_path))
    found = node.wait_for(ds.SOPInstanceUID, "REJECTED")
    assert reason.lower() in found["error"].lower()
    assert "SYNTHETIC^DEMO" not in node.log()


@pytest.mark.timeout(900)
@pytest.mark.data
def test_every_real_film_ends_as_it_should(
    embedded: Node, pacs: Orthanc, dicom_films: Path, tmp_path: Path
) -> None:
    for name in _ENDS:
        send(embedded, dicom_films / f"{name}.dcm")
    for name, state in _ENDS.items():
        film = dicom_films / f"{name}.dcm"
        uid = read(film).SOPInstanceUID

        def ended(uid: str = uid, state: str = state) -> bool:
            return state in [line["state"] for line in embedded.all_of(uid)]

        # The mislabelled film has the UID of the one that it was made from: two lines.
        what = f"{name} to be {state}; {embedded.all_of(uid)}"
        tools.wait_until(ended, _ANALYSED_WITHIN_S, what)
        if state == "DELIVERED":
            _demand_no_new_errors(pacs, film, tmp_path)


@pytest.mark.timeout(900)
@pytest.mark.data
@pytest.mark.parametrize("syntax", converters.SYNTAXES)
def test_a_real_film_in_any_transfer_syntax_ends_the_same(
    embedded: Node, pacs: Orthanc, dicom_films: Path, tmp_path: Path, syntax: str
) -> None:
    """Each copy has a UID of its own, or it would be a resend of the film."""
    copies = {
        name: converters.copy_of(dicom_films / f"{name}.dcm", syntax, tmp_path)
        for name in _some_of_each_end(converters.SYNTAXES.index(syntax))
    }
    for copy in copies.values():
        send(embedded, copy)
    ends = {str(read(copy).SOPInstanceUID): _ENDS[name] for name, copy in copies.items()}

    def ended() -> bool:
        found = {job["source_sop_instance_uid"]: job["state"] for job in embedded.jobs()}
        return ends.items() <= found.items()

    tools.wait_until(ended, _ANALYSED_WITHIN_S, f"{ends}; {embedded.jobs()}", every_s=1)
    for name, copy in copies.items():
        if _ENDS[name] == "DELIVERED":
            _demand_no_new_errors(pacs, copy, tmp_path)


def _some_of_each_end(turn: int) -> list[str]:
    """What is refused, and one that is analysed, another at each turn."""
    analysed = [name for name, end in _ENDS.items() if end == "DELIVERED"]
    chosen = analysed[turn % len(analysed)]
    return [name for name in _ENDS if name == chosen or name not in analysed]


def _demand_no_new_errors(pacs: Orthanc, film: Path, folder: Path) -> None:
    for made in results_of(pacs, read(film)):
        path = folder / "made.dcm"
        made.save_as(path)
        assert tools.dciodvfy_errors(path) <= tools.dciodvfy_errors(film)
        if made.Modality == "SR":
            assert tools.run("dsrdump", path).returncode == 0
