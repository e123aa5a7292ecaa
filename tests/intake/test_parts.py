"""The parts of reception that need no association."""

import subprocess
import sys
from io import BytesIO

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.config import Sender
from dicom_node.intake import part10
from dicom_node.intake.admission import Senders
from tests.intake.films import CLASS, INSTANCE


def test_the_head_of_a_file_is_the_standards() -> None:
    head = part10.head(CLASS, INSTANCE, ExplicitVRLittleEndian)
    assert head[:132] == bytes(128) + b"DICM"
    # The group length counts the bytes behind it (PS3.10 7.1).
    assert head[132:144] == b"\x02\x00\x00\x00UL\x04\x00" + (len(head) - 144).to_bytes(4, "little")
    meta = pydicom.dcmread(BytesIO(head)).file_meta
    assert [element.keyword for element in meta] == [
        "FileMetaInformationGroupLength",
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
    ]
    assert meta.MediaStorageSOPInstanceUID == INSTANCE


@pytest.mark.parametrize(
    ("title", "host", "calling", "address", "allowed"),
    [
        ("*", "*", "ANY", "10.0.0.5", True),
        ("CR1", "*", "CR1", "10.0.0.5", True),
        ("CR1", "*", "cr1", "10.0.0.5", False),
        ("CR1", "10.0.0.5", "CR1", "10.0.0.5", True),
        ("CR1", "10.0.0.5", "CR1", "::ffff:10.0.0.5", True),
        ("CR1", "10.0.0.5", "CR1", "10.0.0.6", False),
        ("*", "10.0.0.0/24", "ANY", "10.0.0.255", True),
        ("*", "10.0.0.0/24", "ANY", "10.0.1.0", False),
        ("*", "fe80::/10", "ANY", "fe80::1%eth0", True),
        ("*", "10.0.0.0/24", "ANY", "::1", False),
    ],
)
def test_senders_are_known_by_title_and_address(
    title: str, host: str, calling: str, address: str, allowed: bool
) -> None:
    assert Senders([Sender(ae_title=title, host=host)]).allow(calling, address) is allowed


def test_reception_imports_neither_torch_nor_highdicom() -> None:
    code = (
        "import sys, dicom_node.intake.scp, dicom_node.intake.intake, dicom_node.config;"
        "print([m for m in ('torch', 'highdicom', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
