"""Validators of others: dciodvfy (dicom3tools) and DCMTK's dsrdump."""

import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from dicom_node.results import conformity, inspection, registry

_OWN_LIMITS = (  # says what it cannot judge: the length of UTF-8 text, TID 2010
    "VR checker does not support this Specific Character Set",
    "Check for template constraints not yet supported",
)
DSRDUMP = Path("/usr/bin/dsrdump")


def dciodvfy_errors(path: Path) -> set[str]:
    """Its error lines, less the values that it quotes."""
    beside = Path(sys.executable).with_name("dciodvfy")
    program = str(beside) if beside.is_file() else shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed")
    done = subprocess.run(
        [program, str(path)], capture_output=True, text=True, errors="replace", timeout=60
    )
    return set(inspection.errors(done.stdout + done.stderr))


def dsrdump(path: Path) -> str:
    """What it prints of a report; fails where it complains."""
    if not DSRDUMP.is_file():
        pytest.skip("DCMTK's dsrdump is not installed")
    done = subprocess.run(
        [str(DSRDUMP), "+Pl", str(path)], capture_output=True, timeout=60, check=False
    )
    complaints = [
        line
        for line in done.stderr.decode(errors="replace").splitlines()
        if line and not any(limit in line for limit in _OWN_LIMITS)
    ]
    assert (done.returncode, complaints) == (0, [])
    return done.stdout.decode()


def dcmtk(
    name: str, *arguments: object, at: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A tool's output; not the one of that name that pynetdicom installs. Fails where it fails."""
    program = Path("/usr/bin") / name
    if not program.is_file():
        pytest.skip(f"DCMTK's {name} is not installed")
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
        cwd=at,
    )
    assert done.returncode == 0, done.stderr
    return done


def read_back(dataset: Dataset) -> Dataset:
    """The object as its receiver reads it; fails where it is not conformant."""
    assert conformity.check(dataset) == ()
    return pydicom.dcmread(BytesIO(registry.encode(dataset)))
