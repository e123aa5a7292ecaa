"""Whether a result object may be sent: our own check, and dciodvfy's where it is installed.

A fault that the source has too is not ours and holds nothing back; of ours, none is sent.
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import structlog
from pydicom import Dataset, dcmread, uid
from pydicom.filereader import read_file_meta_info

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
# A UID of the source stands in our references under other tags than in the source.
_UID_FAULT = re.compile(r"Error - Value invalid for this VR - \(\S+\) UI .* = <> - (.*)")
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
        found = self._errors_of(data)
        return tuple(sorted(_ours(found, self._source_errors(source)))) if found else ()

    def _source_errors(self, source: Path) -> frozenset[str]:
        """The source's error lines; dciodvfy cannot inflate, so it is given what was deflated."""
        if not _is_deflated(source):
            return self._errors(source)
        plain, inflated = dcmread(source), io.BytesIO()
        plain.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        plain.save_as(inflated)
        return self._errors_of(inflated.getvalue())

    def _errors_of(self, data: bytes) -> frozenset[str]:
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            file.write(data)
            file.flush()
            return self._errors(Path(file.name))

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


def _ours(found: frozenset[str], of_source: frozenset[str]) -> frozenset[str]:
    """What is not the source's own fault: the same line, or the same complaint about a UID."""
    uids = {fault[1] for line in of_source if (fault := _UID_FAULT.fullmatch(line))}
    return frozenset(
        line
        for line in found - of_source
        if not ((fault := _UID_FAULT.fullmatch(line)) and fault[1] in uids)
    )


def _is_deflated(path: Path) -> bool:
    syntax = read_file_meta_info(path).get("TransferSyntaxUID")
    return bool(syntax == uid.DeflatedExplicitVRLittleEndian)


def installed() -> Path | None:
    """dciodvfy beside this Python, where its wheel puts it, or on the path."""
    beside = Path(sys.executable).with_name("dciodvfy")
    found = str(beside) if beside.is_file() else shutil.which("dciodvfy")
    return Path(found) if found else None
