"""What a destination holds, asked by C-FIND (PS3.4 Annex C, Study Root)."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_context

from dicom_node import attributes, identity
from dicom_node.config import DeliveryTimeouts, Destination
from dicom_node.delivery import associate
from dicom_node.errors import TransientError

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_PENDING = (0xFF00, 0xFF01)  # PS3.4 table C.4-1
_SUCCESS = 0x0000
_MOST_UIDS = 32
"""In one list of UIDs (PS3.4 C.2.2.2.2): some archives cut long ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Where in a patient's study instances are."""

    study_instance_uid: str
    series_instance_uid: str


class BrokenOffError(TransientError):
    """It says no more, but has said that it has these SOP Instance UIDs."""

    def __init__(self, why: str, found: Collection[str]) -> None:
        super().__init__(why)
        self.found = frozenset(found)


class Finder:
    """Asks destinations for instances and studies; safe to call from several threads."""

    def __init__(self, *, ae_title: str, timeouts: DeliveryTimeouts) -> None:
        self._ae_title, self._timeouts = ae_title, timeouts

    def instances(
        self, destination: Destination, wanted: Mapping[Series, Sequence[str]]
    ) -> set[str]:
        """Which of these SOP Instance UIDs it says it has, in the series where they belong.

        Raises:
            TransientError: it does not say; the message tells why.
        """
        queries = [
            _of_instances(series, uids[i : i + _MOST_UIDS])
            for series, uids in wanted.items()
            for i in range(0, len(uids), _MOST_UIDS)
        ]
        found = self._find(destination, queries)
        there = {attributes.text(ds, "SOPInstanceUID") for ds in found}
        return there & {uid for uids in wanted.values() for uid in uids}

    def study(self, destination: Destination, study_instance_uid: str) -> list[Dataset]:
        """Its Patient ID and Accession Number of a study; empty where it has no such study.

        Other studies are left out, with which an archive answers that does not look at the UID.
        Several where it keeps the study of a corrected patient beside that of the former one.

        Raises:
            TransientError: it does not say; the message tells why.
        """
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study_instance_uid
        query.PatientID = query.AccessionNumber = ""
        found = self._find(destination, [query])
        return [ds for ds in found if attributes.text(ds, "StudyInstanceUID") == study_instance_uid]

    def _find(self, destination: Destination, queries: Sequence[Dataset]) -> list[Dataset]:
        ae = AE(ae_title=self._ae_title)
        ae.implementation_class_uid = identity.IMPLEMENTATION_CLASS_UID
        contexts = [build_context(STUDY_ROOT_FIND)]
        with associate.opened(ae, destination, self._timeouts, contexts) as (assoc, trouble):
            if trouble or assoc is None:
                raise TransientError(trouble)
            within_s = self._timeouts.response_s
            return [found for query in queries for found in _answers(assoc, query, within_s)]


def _answers(assoc: Any, query: Dataset, within_s: float) -> Iterator[Dataset]:
    """What is found; all of it, since one that goes on answering would never be done."""
    until = time.monotonic() + within_s
    try:
        for answer, identifier in assoc.send_c_find(query, STUDY_ROOT_FIND):
            if time.monotonic() > until:
                assoc.abort()
                raise TransientError("C-FIND: its answers did not end in time")
            status = answer.get("Status")
            if status in _PENDING and identifier is not None:
                yield identifier
            elif status != _SUCCESS:
                said = "no answer" if status is None else f"{status:04X}"
                raise TransientError(f"C-FIND: {said}")
    except (RuntimeError, ValueError) as error:
        raise TransientError("C-FIND: the association ended") from error


def _of_instances(series: Series, uids: Sequence[str]) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "IMAGE"
    ds.StudyInstanceUID = series.study_instance_uid
    ds.SeriesInstanceUID = series.series_instance_uid
    ds.SOPInstanceUID = list(uids)
    return ds
