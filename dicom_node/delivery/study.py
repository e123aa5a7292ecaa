"""Whether a result still belongs to its study: the destination is asked again before sending.

A patient merged or an accession number corrected while a film was analysed would otherwise get a
result under names that nobody uses any more.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node import attributes
from dicom_node.delivery.gateway import Anywhere, Gateway
from dicom_node.delivery.outcome import Beginning, Fate, Outcome, nobody
from dicom_node.errors import TransientError

_COMPARED = ("PatientID", "AccessionNumber")
_READ = ["StudyInstanceUID", *_COMPARED]
_NAMES = {"PatientID": "patient", "AccessionNumber": "accession number"}


def objections(
    gateway: Gateway,
    destination: Anywhere,
    files: Sequence[Path],
    within_s: float,
    beginning: Beginning = nobody,
) -> dict[Path, Outcome]:
    """The files that are not to be sent now, and why; a study that is not there has no objection.

    No study is asked for after `within_s`; `beginning` is called before each. The reasons name what
    differs, never the values. A destination that need not answer objects by what it says alone: it
    is asked once a batch where it does not answer, and what it leaves empty differs from nothing.
    """
    asker = _Asker(gateway, destination, time.monotonic() + within_s)
    known: dict[str, list[Dataset] | Outcome] = {}
    found: dict[Path, Outcome] = {}
    for file in files:
        try:
            ds = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_READ))
        except (InvalidDicomError, EOFError, OSError):
            continue  # whoever sends it will say so
        study_uid = str(ds.get("StudyInstanceUID") or "")
        if study_uid not in known:
            known[study_uid] = asker.ask(study_uid) if beginning() else _NOT_BEGUN
        objection = _objection(ds, known[study_uid], destination)
        if objection is not None:
            found[file] = objection
    return found


_UNASKED = Outcome(
    fate=Fate.UNSENT, reason="the batch's time was up before its study was asked for"
)
_NOT_BEGUN = Outcome(
    fate=Fate.UNSENT, reason="its study was not asked for: we were to stop, or another has it"
)


class _Asker:
    """Asks one destination for the studies of one batch."""

    def __init__(self, gateway: Gateway, destination: Anywhere, until: float) -> None:
        self._gateway, self._destination, self._until = gateway, destination, until
        self._must_answer = destination.must_answer_for_study
        self._answers = True

    def ask(self, study_uid: str) -> list[Dataset] | Outcome:
        """What it says of the study, or why that is to be waited for."""
        if not self._must_answer and (not self._answers or self._is_late()):
            return []
        if self._is_late():
            return _UNASKED
        try:
            return self._gateway.study(self._destination, study_uid)
        except TransientError as fault:
            self._answers = False
            reason = f"its study was not asked for: {fault}"
            return Outcome(fate=Fate.POSTPONED, reason=reason) if self._must_answer else []

    def _is_late(self) -> bool:
        return time.monotonic() > self._until


def _objection(
    ds: Dataset, there: list[Dataset] | Outcome, destination: Anywhere
) -> Outcome | None:
    if isinstance(there, Outcome):
        return there
    changed = [_changed(ds, one, destination) for one in there]
    if not changed or [] in changed:
        return None
    reason = (
        f"the study there has another {' and '.join(changed[0])}: send the corrected film again"
    )
    return Outcome(fate=Fate.POSTPONED_SLOWLY, reason=reason, status="STUDY")


def _changed(ds: Dataset, there: Dataset, destination: Anywhere) -> list[str]:
    """What differs, in words."""
    compared = [k for k in _COMPARED if destination.must_answer_for_study or _text(there, k)]
    return [_NAMES[k] for k in compared if _text(ds, k) != _text(there, k)]


def _text(ds: Dataset, keyword: str) -> str:
    return attributes.text(ds, keyword).strip()
