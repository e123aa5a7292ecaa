"""Modalities that send films by DCMTK's storescu: two calling AE titles, which may share films."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import generate_uid

from tests.peers import films, tools

ROOM, WARD = "ROOM", "WARD"
GOES_TO = {ROOM: "pacs", WARD: "archive"}
"""The destination of each sender's films: one that reports commitment, one that is queried."""
_SIDE = 256


@dataclass(frozen=True, slots=True)
class Sent:
    """A film, by its SOP Instance UID, and who sends it."""

    film: str
    by: str = ROOM


def by_everyone(sends: Iterable[Sent]) -> list[Sent]:
    """The same films, each by every sender."""
    return [Sent(sent.film, by) for sent in sends for by in GOES_TO]


def exposed(folder: Path) -> tuple[str, Path]:
    """A film of a new patient: its SOP Instance UID, and its file."""
    pixels = (films.chest_like(_SIDE) * 4095).round().astype("<u2").tobytes()
    ds = films.dx(Rows=_SIDE, Columns=_SIDE, PixelData=pixels, PatientID=generate_uid()[-16:])
    return str(ds.SOPInstanceUID), films.written(ds, folder)


def store(film: Path, by: str, port: int) -> bool:
    """Whether storescu says that it was answered 0x0000."""
    place = ("-aet", by, "-aec", "VALD", "127.0.0.1", str(port))
    command = [tools.find("storescu"), "-v", "-to", "10", *place, str(film)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return "Received Store Response (Success)" in done.stdout + done.stderr
