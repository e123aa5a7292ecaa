"""The demo, as a user runs it whose own configuration is of no use to it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from PIL import Image as Pillow

from dicom_node.admin import demonstration
from dicom_node.errors import NodeError
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    (out / "elsewhere").mkdir()
    (out / "elsewhere" / "config.yaml").write_text("node: {accept: nobody}")
    command = [sys.executable, "-m", "dicom_node", "demo", "--out", str(out)]
    done = subprocess.run(
        command,
        cwd=out / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "VALD_NODE__PORT": "no number"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
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


def test_a_node_that_ends_at_once_is_told_of_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demonstration, "_HOST", "192.0.2.1")  # no address of this machine
    began = time.monotonic()
    with (
        pytest.raises(NodeError, match=r"did not start \(it ended with 1\); see node\.log"),
        demonstration._node(tmp_path, demonstration._write_config(tmp_path, 1, 2)) as node,
    ):
        demonstration._wait_until_listening(node, 1)
    assert time.monotonic() - began < demonstration._START_S / 2
