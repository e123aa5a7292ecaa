"""Whether a result object may be sent: our own check, and dciodvfy's where it is installed.

A fault that the source has too is not ours and holds nothing back; of ours, none is sent.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pydicom import Dataset, uid
from pydicom.datadict import tag_for_keyword

from dicom_node import radiograph
from dicom_node.errors import InputError, InspectionError
from dicom_node.results import carried, conformity

_PATIENCE_S = 60
# dciodvfy quotes values, which may be a patient's; names of elements and modules are not.
# A value may have brackets and lines itself: it ends where only these words follow, or its line.
_NAMED = r"(?:Element=|Module=|attribute )<[^<>^=]*>"
_AFTER = r"(?= -| for| of| Element=| Module=|$)"
_QUOTED = re.compile(
    rf"(?<!Element=)(?<!Module=)(?<!attribute )<.*?(?:>(?={_AFTER}(?:[^<>]*{_NAMED})*[^<>]*$)|$)"
)
_QUOTED_UID = re.compile(r'".*"(?= in \(0x)')
# dciodvfy counts bytes; a length of text is in characters (PS3.5 6.2), which conformity.py counts.
_BYTES_COUNTED = re.compile(
    r"Error - Value invalid for this VR - \S+ (SH|LO|PN|ST|LT|UC|UT) .*"
    r" - Length invalid for this VR = \d+, expected <= \d+"
)
# What a PACS files by is carried as it came, also where it is too long.
_VERBATIM_TAGS = "|".join(
    f"0x{tag >> 16:04x},0x{tag & 0xFFFF:04x}"
    for tag in (tag_for_keyword(keyword) or 0 for keyword in sorted(carried.VERBATIM))
)
_VERBATIM = re.compile(rf"Error - Value invalid for this VR - \((?:{_VERBATIM_TAGS})\) .*")
_COUNT = re.compile(r"(?<![0-9a-fx])\d+(?![0-9a-fx])")  # not a tag's digits
_OF_A_UID = re.compile(
    r'Error - (.*\bUID\b.*) - "" in \(0x.*'  # of its root
    r"|Error - .*\(0x\w{4},0x\w{4}\) UI .* - (.*)"
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

        Raises:
            InspectionError: dciodvfy did not judge the object, or not its source.
        """
        own = conformity.check(dataset)
        if own or self._program is None:
            return own
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            file.write(data)
            file.flush()
            found = self._errors(Path(file.name))
        known = {_kind(line) for line in self._errors_of_source(source)} if found else set()
        return tuple(sorted(line for line in found if _kind(line) not in known))

    def _errors_of_source(self, path: Path) -> frozenset[str]:
        """Those of a film; a deflated one, which dciodvfy cannot read, is rewritten for it."""
        try:
            header = radiograph.read_header(path)
        except InputError:
            return self._errors(path)
        if header.transfer_syntax_uid != uid.DeflatedExplicitVRLittleEndian:
            return self._errors(path)
        header.dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            header.dataset.save_as(file, enforce_file_format=True)
            file.flush()
            return self._errors(Path(file.name))

    def _errors(self, path: Path) -> frozenset[str]:
        """dciodvfy's error lines. Raises InspectionError where it does not end by itself."""
        try:
            done = subprocess.run(  # noqa: S603 - our own program on our own file
                [str(self._program), str(path)],
                capture_output=True,
                check=False,
                timeout=_PATIENCE_S,
            )
        except OSError as fault:
            raise InspectionError(f"dciodvfy did not judge: {fault.strerror}") from fault
        except subprocess.TimeoutExpired as fault:
            raise InspectionError(f"dciodvfy did not judge in {_PATIENCE_S:g} s") from fault
        if done.returncode < 0:
            raise InspectionError(f"dciodvfy was ended by signal {-done.returncode}")
        return errors((done.stdout + done.stderr).decode(errors="replace"))


def errors(printed: str) -> frozenset[str]:
    """dciodvfy's error lines, without values; not what it says of text that is no longer than
    it may be in characters, nor of what is carried verbatim."""
    lines = [line for line in printed.splitlines() if line.startswith("Error")]
    left = [
        line for line in lines if not (_BYTES_COUNTED.fullmatch(line) or _VERBATIM.fullmatch(line))
    ]
    if len(left) < len(lines) and not any("Value invalid" in line for line in left):
        left = [line for line in left if line != _SUMMARY]
    return frozenset(_QUOTED.sub("<>", _QUOTED_UID.sub('""', line)) for line in left)


def _kind(line: str) -> str:
    """What is wrong and where, without counts. A UID of the source is named by other attributes of
    a result too, so of what is wrong with one it does not matter where."""
    of_uid = _OF_A_UID.fullmatch(line)
    return _COUNT.sub("", of_uid[of_uid.lastindex or 0] if of_uid else line)


def installed() -> Path | None:
    """dciodvfy beside this Python, where its wheel puts it, or on the path."""
    beside = Path(sys.executable).with_name("dciodvfy")
    found = str(beside) if beside.is_file() else shutil.which("dciodvfy")
    return Path(found) if found else None
