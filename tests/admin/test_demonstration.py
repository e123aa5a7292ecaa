"""The demo, as a new user runs it."""

import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from PIL import Image as Pillow

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "dicom_node", "demo", "--out", str(out)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_sample_says_that_it_is_synthetic(made: tuple[Path, str]) -> None:
    assert pydicom.dcmread(made[0] / "sample.dcm").SyntheticData == "YES"


def test_picture_and_report_come_back_and_find_the_induced_opacity(made: tuple[Path, str]) -> None:
    out, said = made
    assert pydicom.dcmread(out / "sc.dcm").Modality == "OT"
    assert pydicom.dcmread(out / "sr.dcm").Modality == "SR"
    assert Pillow.open(out / "sc.png").width > 1024
    assert "Region 1" in said
    assert "not for diagnosis" in said


def test_the_region_is_in_the_zone_that_was_asked_for(made: tuple[Path, str]) -> None:
    """Right upper zone: at the image's left, in its upper half."""
    report = pydicom.dcmread(made[0] / "sr.dcm")
    outline = next(item for item in report.iterall() if item.keyword == "GraphicData").value
    columns, rows = outline[0::2], outline[1::2]
    assert max(columns) < 512
    assert max(rows) < 512
