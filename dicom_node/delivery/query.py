"""What a destination holds, asked by C-FIND (PS3.4 Annex C, Study Root)."""

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_context

from dicom_node import attributes, identity
from dicom_node.config import DeliveryTimeouts, Destination
from dicom_node.delivery import associate
from dicom_node.delivery.exchange import PENDING
from dicom_node.delivery.outcome import Beginning, nobody
from dicom_node.errors import TransientError

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_SUCCESS = 0x0000
_OUT_OF_RESOURCES = 0xA7
_MOST_UIDS = 32
"""In one list of UIDs (PS3.4 C.2.2.2.2): some archives cut long ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Where in a patient's study instances are."""

    study_instance_uid: str
    series_instance_uid: str


class QuestionError(TransientError):
    """It does not say what it was asked; another question it may answer."""


class UnansweredError(TransientError):
    """It does not say of all that it was asked about, by their SOP Instance UIDs.

    It has `found`; why it does not say of others is in `unanswered`. Those in `unasked` are to be
    asked about later, since it answered nothing in the end: `trouble` says why. Of the rest it has
    said that they are not there.
    """

    def __init__(
        self,
        *,
        found: Collection[str],
        unanswered: Mapping[str, str],
        unasked: Collection[str],
        trouble: str,
    ) -> None:
        super().__init__("; ".join(sorted({*unanswered.values(), trouble} - {""})))
        self.found, self.unanswered = frozenset(found), dict(unanswered)
        self.unasked, self.trouble = frozenset(unasked), trouble


_MOST_SILENT = 2
"""So many questions in a row without an answer: whoever is asked is away, or as good as that."""
_STOPPING = "we were to stop"


def ask_each(
    questions: Sequence[tuple[Series, Sequence[str]]],
    ask: Callable[[Series, Sequence[str]], Collection[str]],
    going_on: Beginning = nobody,
) -> set[str]:
    """What is found of the SOP Instance UIDs of each question, which fails alone.

    Raises:
        UnansweredError: of some nothing is said.
    """
    found: set[str] = set()
    unanswered: dict[str, str] = {}
    trouble, silent = "", 0
    rest = iter(questions)
    for series, uids in rest:
        try:
            found.update(ask(series, uids))
            trouble, silent = "", 0
        except QuestionError as fault:
            unanswered |= dict.fromkeys(uids, str(fault))
            trouble, silent = "", 0
        except TransientError as fault:
            unanswered |= dict.fromkeys(uids, str(fault))
            trouble, silent = str(fault), silent + 1
        if silent == _MOST_SILENT or not going_on():
            trouble = trouble or _STOPPING
            break
    unasked = [uid for _, uids in rest for uid in uids]
    if unanswered or unasked:
        raise UnansweredError(found=found, unanswered=unanswered, unasked=unasked, trouble=trouble)
    return found


class Finder:
    """Asks destinations for instances and studies; safe to call from several threads."""

    def __init__(self, *, ae_title: str, timeouts: DeliveryTimeouts) -> None:
        self._ae_title, self._timeouts = ae_title, timeouts

    def instances(
        self,
        destination: Destination,
        wanted: Mapping[Series, Sequence[str]],
        going_on: Beginning = nobody,
    ) -> set[str]:
        """Which of these SOP Instance UIDs it says it has, in the series where they belong.

        Nothing more is asked once `going_on` says no.

        Raises:
            UnansweredError: it does not say of all.
            TransientError: it was not asked; the message tells why.
        """
        questions = [
            (series, uids[i : i + _MOST_UIDS])
            for series, uids in wanted.items()
            for i in range(0, len(uids), _MOST_UIDS)
        ]
        with self._opened(destination) as assoc:
            numbers = itertools.count(1)

            def ask(series: Series, uids: Sequence[str]) -> set[str]:
                query, within_s = _of_instances(series, uids), self._timeouts.response_s
                found = _answers(assoc, query, next(numbers), within_s)
                return {attributes.text(ds, "SOPInstanceUID") for ds in found} & {*uids}

            return ask_each(questions, ask, going_on)

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
        with self._opened(destination) as assoc:
            found = _answers(assoc, query, 1, self._timeouts.response_s)
        return [ds for ds in found if attributes.text(ds, "StudyInstanceUID") == study_instance_uid]

    @contextmanager
    def _opened(self, destination: Destination) -> Iterator[Any]:
        ae = AE(ae_title=self._ae_title)
        ae.implementation_class_uid = identity.IMPLEMENTATION_CLASS_UID
        contexts = [build_context(STUDY_ROOT_FIND)]
        with associate.opened(ae, destination, self._timeouts, contexts) as (assoc, trouble):
            if trouble or assoc is None:
                raise TransientError(trouble)
            yield assoc


def _answers(assoc: Any, query: Dataset, message_id: int, within_s: float) -> list[Dataset]:
    """What is found; all of it, since one that goes on answering would never be done.

    Read to the end, also where one cannot be read: what follows would pass for the next answers.

    Raises:
        QuestionError: it says something else, or what nobody can read.
        TransientError: it does not answer; the message tells why.
    """
    until, found = time.monotonic() + within_s, list[Dataset | None]()
    try:
        for answer, identifier in assoc.send_c_find(query, STUDY_ROOT_FIND, message_id):
            if time.monotonic() > until:
                assoc.abort()
                raise TransientError("C-FIND: its answers did not end in time")
            status = answer.get("Status")
            if status in PENDING:
                found.append(identifier)
            elif status != _SUCCESS:
                raise _unsaid(status)
    except ValueError as error:
        raise QuestionError("C-FIND: the question cannot be encoded") from error
    except RuntimeError as error:
        raise TransientError("C-FIND: the association ended") from error
    readable = [ds for ds in found if ds is not None]
    if len(readable) < len(found):
        raise QuestionError("C-FIND: an answer that cannot be read")
    return readable


def _unsaid(status: int | None) -> TransientError:
    """What a final status other than success means of the question (PS3.4 table C.4-1)."""
    if status is None:
        return TransientError("C-FIND: no answer")
    is_its_moment = status >> 8 == _OUT_OF_RESOURCES
    return (TransientError if is_its_moment else QuestionError)(f"C-FIND: {status:04X}")


def _of_instances(series: Series, uids: Sequence[str]) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "IMAGE"
    ds.StudyInstanceUID = series.study_instance_uid
    ds.SeriesInstanceUID = series.series_instance_uid
    ds.SOPInstanceUID = list(uids)
    return ds
