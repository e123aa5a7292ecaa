"""DICOMweb destinations: STOW-RS (PS3.18 10.5) and QIDO-RS (10.6), by dicomweb-client.

| what the origin server does                    | is                                          |
|------------------------------------------------|---------------------------------------------|
| 200; 202 with no failure of this instance      | delivered; a Warning Reason is a note       |
| 202 or 409 with a Failure Reason               | what that status means of a C-STORE         |
| 409 without one, 400, 406, 411, 413, 415, 422  | refused: this result is not taken           |
| 401, 403, 404, 405, 407, 410, 501, 505         | postponed, slowly: administrators repair it |
| 408, 425, 429, any other 5xx, anything else    | postponed: its moment's                     |
| no connection, no answer, TLS refused          | postponed: its moment's                     |

Each result is a request of its own, so that each has its own answer, and is sent as it is kept. The
library's own retries are off: an attempt is an attempt.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset

from dicom_node.config import DeliveryTimeouts, DicomWeb
from dicom_node.delivery import outcome
from dicom_node.delivery.outcome import Fate, Outcome
from dicom_node.delivery.query import Series
from dicom_node.errors import TransientError

_OK, _CONFLICT = 200, 409
_REFUSED = {400, 406, 411, 413, 415, 422}
_FOR_PEOPLE = {401, 403, 404, 405, 407, 410, 501, 505}
_UNSENT = Outcome(fate=Fate.UNSENT, reason="the batch's time was up before its turn")


class WebSender:
    """Sends to, and asks, DICOMweb destinations; safe to call from several threads."""

    def __init__(self, timeouts: DeliveryTimeouts) -> None:
        self._timeouts = timeouts

    def send(self, destination: DicomWeb, files: Sequence[Path], within_s: float) -> list[Outcome]:
        """What became of each kept Part 10 file, in their order; none is begun after `within_s`."""
        until = time.monotonic() + within_s
        outcomes: list[Outcome] = []
        for file in files:
            away = bool(outcomes) and not outcomes[-1].status
            late = away or time.monotonic() > until
            outcomes.append(_UNSENT if late else self._store(destination, file))
        return outcomes

    def echo(self, destination: DicomWeb) -> str:
        """Why the server does not answer a query for one study; empty where it does."""
        try:
            self._ask(destination, lambda client: client.search_for_studies(limit=1))
        except TransientError as fault:
            return str(fault)
        return ""

    def instances(self, destination: DicomWeb, wanted: Mapping[Series, Sequence[str]]) -> set[str]:
        """Which of these SOP Instance UIDs it says it has, in the series where they belong.

        Raises:
            TransientError: it does not say; the message tells why.
        """
        there: set[str] = set()
        for series in wanted:
            uids = (series.study_instance_uid, series.series_instance_uid)
            found = self._ask(destination, partial(_instances_of, uids))
            there |= {str(ds.get("SOPInstanceUID") or "") for ds in found}
        return there & {uid for uids in wanted.values() for uid in uids}

    def study(self, destination: DicomWeb, study_instance_uid: str) -> Dataset | None:
        """Its Patient ID and Accession Number of a study; None where it has no such study.

        Raises:
            TransientError: it does not say; the message tells why.
        """
        filters = {"StudyInstanceUID": study_instance_uid}
        found = self._ask(
            destination, lambda client: client.search_for_studies(search_filters=filters)
        )
        return found[0] if found else None

    def _store(self, destination: DicomWeb, file: Path) -> Outcome:
        client, answers = self._client(destination)
        try:
            # Not store_instances(), which would encode the object anew.
            said = client._http_post_multipart_application_dicom(
                f"{destination.url.rstrip('/')}/studies", [file.read_bytes()]
            )
        except requests.HTTPError as fault:
            return _of_response(fault.response)
        except (requests.RequestException, OSError) as fault:
            return Outcome(fate=Fate.POSTPONED, reason=f"no answer: {type(fault).__name__}")
        except (ValueError, KeyError):  # an answer that is none; the status tells
            said = Dataset()
        return _of(answers[-1] if answers else _OK, said)

    def _ask(self, destination: DicomWeb, query: Any) -> list[Dataset]:
        client, _ = self._client(destination)
        try:
            return [Dataset.from_json(found) for found in query(client)]
        except requests.HTTPError as fault:
            status = "" if fault.response is None else fault.response.status_code
            raise TransientError(f"QIDO-RS: HTTP {status}") from fault
        except (requests.RequestException, OSError, ValueError, KeyError) as fault:
            raise TransientError(f"QIDO-RS: {type(fault).__name__}") from fault

    def _client(self, destination: DicomWeb) -> tuple[DICOMwebClient, list[int]]:
        """A client, and the statuses that it will be answered."""
        answers: list[int] = []

        def heard(response: Any, *_: object, **__: object) -> Any:
            answers.append(response.status_code)
            return response

        client = DICOMwebClient(
            destination.url,
            session=_session(destination),
            callback=heard,
            timeout=(self._timeouts.connect_s, self._timeouts.response_s),
        )
        client.set_http_retry_params(retry=False)
        return client, answers


def _instances_of(uids: tuple[str, str], client: DICOMwebClient) -> Any:
    return client.search_for_instances(*uids)


def _session(destination: DicomWeb) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no password from a .netrc, no proxy from the environment
    if destination.bearer_token is not None:
        session.headers["Authorization"] = f"Bearer {destination.bearer_token}"
    if destination.username is not None:
        session.auth = (destination.username, destination.password or "")
    if destination.tls is not None:
        session.verify = destination.tls.authority or True
        if destination.tls.certificate is not None:
            session.cert = (destination.tls.certificate, destination.tls.key or "")
    return session


def _of_response(response: Any) -> Outcome:
    """What an answer of 4xx or 5xx means."""
    try:
        said = Dataset.from_json(response.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        said = Dataset()
    return _of(int(response.status_code), said)


def _of(status: int, said: Dataset) -> Outcome:
    """What an HTTP status with a Store Instances Response (PS3.18 table 10.5.3-1) means."""
    code = f"HTTP {status}"
    failure = _reason(said.get("FailedSOPSequence") or (), "FailureReason")
    if failure is not None and (status < 300 or status == _CONFLICT):
        meant = outcome.of_status(failure)
        return Outcome(fate=meant.fate, reason=f"{meant.reason} ({code})", status=code)
    if status < 300:
        note = _reason(said.get("ReferencedSOPSequence") or (), "WarningReason")
        words = "" if note is None else outcome.of_status(note).reason
        return Outcome(fate=Fate.DELIVERED, reason=words, status=code)
    return Outcome(fate=_fate(status), reason=f"the server answers {code}", status=code)


def _fate(status: int) -> Fate:
    if status in _REFUSED or status == _CONFLICT:
        return Fate.REFUSED
    return Fate.POSTPONED_SLOWLY if status in _FOR_PEOPLE else Fate.POSTPONED


def _reason(items: Iterable[Dataset], keyword: str) -> int | None:
    """The first item's reason; a failure without one is a processing failure."""
    for item in items:
        if keyword in item:
            return int(item[keyword].value)
        if keyword == "FailureReason":
            return 0x0110
    return None
