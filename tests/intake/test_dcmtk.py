"""DCMTK's own senders against the running receiver."""

import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.intake import part10
from tests.intake.conftest import Receiver, Start
from tests.intake.films import CLASS, INSTANCE, data_set_of, encoded, film

# By full path: pynetdicom puts scripts of the same names into a virtual environment.
STORESCU, ECHOSCU = Path("/usr/bin/storescu"), Path("/usr/bin/echoscu")
NOT_SENT = {0xFFFCFFFC}  # storescu leaves out the padding behind a data set, and group lengths
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not STORESCU.exists(), reason="DCMTK is not installed"),
]


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), "-v", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def to(receiver: Receiver) -> list[str]:
    return ["-aec", "VALD", "127.0.0.1", str(receiver.port)]


def test_echoscu_is_answered(receiver: Receiver) -> None:
    assert run(ECHOSCU, *to(receiver)).returncode == 0


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("nih-dx-chest-effusion.dcm", "-xi"),
        ("rg1-chest-philips-mono1-15bit-jpeg2000.dcm", "-xw"),
        ("rg2-hip-fuji-mono2-jpeg-extended.dcm", "-xx"),
        ("rg3-ankle-fuji-mono1-10bit-rle.dcm", "-xr"),
        ("siim-cr-chest-mono2-jpeg-baseline.dcm", "-xy"),
    ],
)
def test_a_real_film_is_kept_as_storescu_sent_it(
    receiver: Receiver, dicom_films: Path, name: str, option: str
) -> None:
    source = dicom_films / name
    assert run(STORESCU, option, *to(receiver), str(source)).returncode == 0
    (row,) = receiver.store.received(10)
    kept = receiver.folder / row.object.name
    sent, got = pydicom.dcmread(source), pydicom.dcmread(kept)
    assert row.transfer_syntax_uid == sent.file_meta.TransferSyntaxUID
    assert got.PixelData == sent.PixelData
    assert [element.tag for element in got] == [
        element.tag for element in sent if element.tag not in NOT_SENT and element.tag.element != 0
    ]


def test_what_storescu_sends_is_on_the_disk_byte_for_byte(
    receiver: Receiver, tmp_path: Path
) -> None:
    whole = encoded(film())
    source = tmp_path / "film.dcm"
    source.write_bytes(part10.head(CLASS, INSTANCE, ExplicitVRLittleEndian) + whole)
    assert run(STORESCU, "-xe", *to(receiver), str(source)).returncode == 0
    (row,) = receiver.store.received(10)
    kept = (receiver.folder / row.object.name).read_bytes()
    # DCMTK writes sequences anew, with lengths of its own choice: the pixels are its input's.
    assert data_set_of(kept)[-len(film().PixelData) :] == film().PixelData


def test_echoscu_is_rejected_by_its_ae_title(start: Start) -> None:
    receiver = start(accept=[{"ae_title": "CR1"}])
    answer = run(ECHOSCU, "-aet", "CR2", *to(receiver))
    assert answer.returncode != 0
    assert "Calling AE Title Not Recognized" in answer.stdout + answer.stderr
