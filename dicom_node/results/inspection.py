"""Whether a result object may be sent: our own check, and dciodvfy's where it is installed.

A fault that the source has too is not ours and holds nothing back; of ours, none is sent.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import structlog
from pydicom import Dataset

from dicom_node.results import conformity

_log = structlog.get_logger()

_PATIENCE_S = 60
# dciodvfy quotes values, which may be a patient's; names of elements and modules are not.
# A value may have brackets and lines itself: it ends where only these words follow, or its line.
_NAMED = r"(?:Element=|Module=|attribute )<[^<>^=]*>"
_AFTER = r"(?= -| for| of| Element=| Module=|$)"
_QUOTED = re.compile(
    rf"(?<!Element=)(?<!Module=)(?<!attribute )<.*?(?:>(?={_AFTER}(?:[^<>]*{_NAMED})*[^<>]*$)|$)"
)
# dciodvfy counts bytes; a length of text is in characters (PS3.5 6.2), which conformity.py counts.
_BYTES_COUNTED = re.compile(
    r"Error - Value invalid for this VR - \S+ (SH|LO|PN|ST|LT|UC|UT) .*"
    r" - Length invalid for this VR = \d+, expected <= \d+"
)
_SUMMARY = "Error - Dicom dataset contains invalid data values for Value Representations"


class Inspector:
    """Judges result objects before they are kept for sending."""

    def __init__(self, program: Path | None) -> None:
        """`program` is dciodvfy (dicom3tools), or None where there is none."""
        self._program = program

    def faults(self, dataset: Dataset, data: bytes, source: Path) -> tuple[str, ...]:
        """What is wrong with an object, encoded as `data`, that is not wrong with its source.

        No patient data is named. Empty where the object may be sent.
        """
        own = conformity.check(dataset)
        if own or self._program is None:
            return own
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            file.write(data)
            file.flush()
            found = self._errors(Path(file.name))
        return tuple(sorted(found - self._errors(source))) if found else ()

    def _errors(self, path: Path) -> frozenset[str]:
        """dciodvfy's error lines; none where it does not end by itself."""
        try:
            done = subprocess.run(  # noqa: S603 - our own program on our own file
                [str(self._program), str(path)],
                capture_output=True,
                check=False,
                timeout=_PATIENCE_S,
            )
        except (OSError, subprocess.TimeoutExpired) as fault:
            _log.warning("dciodvfy did not judge", error=type(fault).__name__)
            return frozenset()
        return errors((done.stdout + done.stderr).decode(errors="replace"))


def errors(printed: str) -> frozenset[str]:
    """dciodvfy's error lines, without values; not what it says of text that is no longer than
    it may be in characters."""
    lines = [line for line in printed.splitlines() if line.startswith("Error")]
    left = [line for line in lines if not _BYTES_COUNTED.fullmatch(line)]
    if len(left) < len(lines) and not any("Value invalid" in line for line in left):
        left = [line for line in left if line != _SUMMARY]
    return frozenset(_QUOTED.sub("<>", line) for line in left)


def installed() -> Path | None:
    """dciodvfy beside this Python, where its wheel puts it, or on the path."""
    beside = Path(sys.executable).with_name("dciodvfy")
    found = str(beside) if beside.is_file() else shutil.which("dciodvfy")
    return Path(found) if found else None
