"""DICOMweb destinations: STOW-RS (PS3.18 10.5) and QIDO-RS (10.6), by dicomweb-client.

| what the origin server does                    | is                                          |
|------------------------------------------------|---------------------------------------------|
| 2xx or 409 with a Failure Reason of this       | what that status means of a C-STORE; but    |
| instance, or of one without a name             | success or a warning, not 0111: postponed   |
| 2xx or 409 that names this instance as stored  | delivered; a Warning Reason is a note       |
| any other 2xx                                  | postponed: it does not say that it has it   |
| 3xx                                            | postponed, slowly: a log-in page, or moved  |
| 409 without one, 400, 406, 411, 413, 415, 422  | refused: this result is not taken           |
| 401, 403, 404, 405, 407, 410, 501, 505         | postponed, slowly: administrators repair it |
| 408, 425, 429, any other 5xx, anything else    | postponed: its moment's                     |
| no connection, no answer, TLS refused          | postponed: its moment's                     |
| a certificate or key of ours cannot be read    | postponed, slowly: administrators repair it |

Each result is a request of its own, so that each has its own answer, and is sent as it is kept. The
library's own retries are off: an attempt is an attempt. Redirections are not followed: a request
that was turned away to a log-in page would end there with a 200.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
import structlog
import urllib3
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node import attributes
from dicom_node.config import DeliveryTimeouts, DicomWeb
from dicom_node.delivery import dicomjson, https, outcome, stow
from dicom_node.delivery.outcome import Beginning, Fate, Outcome, nobody
from dicom_node.delivery.query import QuestionError, Series, ask_each
from dicom_node.errors import ConfigError, TransientError
from pipeline import shortage
from storage.jobs import says_nothing

_log = structlog.get_logger()

_OK, _REDIRECTIONS = 200, 300
_NOT_FOUND = "HTTP 404"
_UNSENT = Outcome(
    fate=Fate.UNSENT, reason="the server's trouble, or the batch's time, came before its turn"
)
_NOT_READ = Outcome(fate=Fate.POSTPONED, reason="the kept file cannot be read now", status="FILE")
_PIECE_BYTES = 1 << 16
_MOST_BYTES = 1 << 20
"""Of one answer, inflated: what we send, and ask for, is one instance or study, of 2 KB in JSON."""
_MOST_OF_STUDIES_BYTES = 8 << 20
"""Of an answer about studies: a server that heeds no `limit` and no filter may tell of them all."""
_SAID_S = 5.0  # each time is a write
_JSON = "application/dicom+json"  # PS3.18 10.5.3.2: the response payload we ask for
_MULTIPART = (  # PS3.18 8.6.1.2.1; a boundary that no result has in it
    'multipart/related; type="application/dicom"; boundary="6c1f0b9e-52d7-4c3a-9e0d-8b7a41f2d365"'
)


class _AnsweredError(TransientError):
    """The server answers, but not what it was asked; or it begins to, and `breaks_off`."""

    def __init__(self, status: int, said: str = "", *, breaks_off: bool = False) -> None:
        self.status, self.breaks_off = f"HTTP {status}", breaks_off
        super().__init__(f"QIDO-RS: {said if status == _OK else self.status}")


@dataclass(slots=True)
class _Round:
    """Of the questions that are asked in a row: whether the server has answered one, by 2xx."""

    answers: bool = False


class WebSender:
    """Sends to, and asks, DICOMweb destinations; safe to call from several threads."""

    def __init__(self, timeouts: DeliveryTimeouts) -> None:
        self._timeouts = timeouts

    def send(
        self,
        destination: DicomWeb,
        files: Sequence[Path],
        within_s: float,
        beginning: Beginning = nobody,
    ) -> list[Outcome]:
        """What became of each kept Part 10 file, in their order; none is begun after `within_s`."""
        until = time.monotonic() + within_s
        outcomes: list[Outcome] = []
        for file in files:
            away = bool(outcomes) and says_nothing(outcomes[-1].status)
            going = not away and time.monotonic() <= until and beginning()
            outcomes.append(self._store(destination, file, beginning) if going else _UNSENT)
        return outcomes

    def echo(self, destination: DicomWeb) -> str:
        """Why the server does not answer a query for one study; empty where it does."""
        try:
            self._studies(destination, limit=1)
        except TransientError as fault:
            return str(fault)
        return ""

    def probe(self, destination: DicomWeb) -> str:
        """Why nothing can be sent there; empty where it answers that query, whatever it says.

        It may take results of those whom it does not let ask, or know no QIDO-RS.
        """
        try:
            self._studies(destination, limit=1)
        except _AnsweredError as fault:
            return str(fault) if says_nothing(fault.status) else ""
        except TransientError as fault:
            return str(fault)
        return ""

    def instances(
        self,
        destination: DicomWeb,
        wanted: Mapping[Series, Sequence[str]],
        going_on: Beginning = nobody,
    ) -> set[str]:
        """Which of these SOP Instance UIDs it says it has, in the series where they belong.

        One question each: of a series it may say as much as fits on a page (PS3.18 8.3.4.4).
        Nothing more is asked once `going_on` says no.

        Raises:
            UnansweredError: it does not say of all.
        """
        questions = [(series, [uid]) for series, uids in wanted.items() for uid in uids]
        return ask_each(questions, partial(self._there, destination, _Round()), going_on)

    def _there(
        self, destination: DicomWeb, heard: _Round, series: Series, uids: Sequence[str]
    ) -> list[str]:
        """The one UID where it is there. Raises TransientError, as `ask_each` wants it."""
        place = (series.study_instance_uid, series.series_instance_uid)
        (uid,) = uids
        try:
            found = self._ask(
                destination,
                lambda client: client.search_for_instances(
                    *place, search_filters={"SOPInstanceUID": uid}
                ),
                dicomjson.with_uid(dicomjson.SOP_INSTANCE_UID, uid),
            )
        except _AnsweredError as fault:
            if fault.status == _NOT_FOUND:  # what some say of a study that they do not have
                self._demand_answers(destination, heard)
                return []
            if says_nothing(fault.status) or fault.breaks_off:
                raise
            raise QuestionError(str(fault)) from fault
        heard.answers = True
        return [uid] if found else []

    def _demand_answers(self, destination: DicomWeb, heard: _Round) -> None:
        """It answers other questions: one that starts, or has lost its route, says 404 to all.

        Raises:
            TransientError: it has answered none of this round, and not one about studies either.
        """
        if heard.answers:
            return
        if trouble := self.echo(destination):
            raise TransientError(f"{_NOT_FOUND}, and of studies {trouble}")
        heard.answers = True

    def study(self, destination: DicomWeb, study_instance_uid: str) -> list[Dataset]:
        """Its Patient ID and Accession Number of a study; see `Finder.study`.

        Raises:
            TransientError: it does not say; the message tells why.
        """
        return self._studies(
            destination,
            dicomjson.with_uid(dicomjson.STUDY_INSTANCE_UID, study_instance_uid),
            search_filters={"StudyInstanceUID": study_instance_uid},
        )

    def _studies(
        self,
        destination: DicomWeb,
        wanted: dicomjson.Choice = dicomjson.none,
        **asked: Any,
    ) -> list[Dataset]:
        """What is wanted of the studies that it finds. Raises TransientError."""
        return self._ask(
            destination,
            lambda client: client.search_for_studies(**asked),
            wanted,
            _MOST_OF_STUDIES_BYTES,
        )

    def _store(self, destination: DicomWeb, file: Path, going_on: Beginning) -> Outcome:
        """What became of one; what nobody foresaw is its own, others have had their answer."""
        try:
            return self._post(destination, file, going_on)
        except Exception as fault:  # noqa: BLE001 - as at the worker's loop: the rows must say it
            _log.exception("sending failed")
            return outcome.unforeseen(fault)

    def _post(self, destination: DicomWeb, file: Path, going_on: Beginning) -> Outcome:
        try:
            uid = str(read_file_meta_info(file).MediaStorageSOPInstanceUID)
            data = file.read_bytes()
        except (InvalidDicomError, AttributeError):
            return Outcome(fate=Fate.REFUSED, reason="the kept file is no DICOM file any more")
        except OSError:
            return _NOT_READ
        try:
            client, answers = self._client(destination, going_on)
        except ConfigError as fault:
            return Outcome(fate=Fate.POSTPONED_SLOWLY, reason=str(fault))
        trouble = ""
        try:
            # Not store_instances(), which would encode the object anew.
            whole = client._encode_multipart_message([data], _MULTIPART)
            url = f"{destination.url.rstrip('/')}/studies"
            client._http_post(url, whole, {"Content-Type": _MULTIPART})
        except requests.HTTPError:
            pass  # whatever its status: it is an answer
        except (requests.RequestException, OSError) as fault:
            if not answers and shortage.lacking(fault):
                return outcome.unforeseen(fault)
            if not answers:
                reason = f"no answer: {https.why(fault, encrypted=destination.encrypted)}"
                return Outcome(fate=Fate.POSTPONED, reason=reason)
            trouble = https.why(fault, encrypted=destination.encrypted)
        except attributes.UNREADABLE as fault:  # not even the request could be made
            if not answers:
                reason = f"no request: {type(fault).__name__}"
                return Outcome(fate=Fate.POSTPONED_SLOWLY, reason=reason)
            trouble = type(fault).__name__
        return stow.outcome_of(answers[-1], uid, trouble)

    def _ask(
        self,
        destination: DicomWeb,
        query: Callable[[DICOMwebClient], list[Any]],
        wanted: dicomjson.Choice,
        most_bytes: int = _MOST_BYTES,
    ) -> list[Dataset]:
        """What is wanted of what it finds; the rest is not read, which may take minutes.

        Raises:
            QuestionError: it cannot be asked this.
            TransientError: it does not say; the message tells why.
        """
        try:
            client, answers = self._client(destination, most_bytes=most_bytes)
        except ConfigError as fault:
            raise TransientError(f"QIDO-RS: {fault}") from fault
        try:
            said_of = wanted(dicomjson.data_sets(query(client)))
            found = [Dataset.from_json(one) for one in said_of]
        except Exception as fault:  # whatever its bytes do to their readers
            lacking = shortage.lacking(fault)
            said = lacking or https.why(fault, encrypted=destination.encrypted)
            if answers:
                cut = isinstance(fault, requests.ConnectionError | requests.Timeout)
                raise _AnsweredError(answers[-1].status_code, said, breaks_off=cut) from fault
            if not lacking and isinstance(fault, ValueError) and not isinstance(fault, OSError):
                raise QuestionError(f"QIDO-RS: no request: {said}") from fault
            raise TransientError(f"QIDO-RS: {said}") from fault
        if answers and answers[-1].status_code >= _REDIRECTIONS:
            raise _AnsweredError(answers[-1].status_code)
        return found

    def _client(
        self,
        destination: DicomWeb,
        going_on: Beginning = nobody,
        most_bytes: int = _MOST_BYTES,
    ) -> tuple[DICOMwebClient, list[Any]]:
        """A client, and the answers that it will get. Raises ConfigError."""
        answers: list[Any] = []

        def heard(response: Any, *_: object, **__: object) -> Any:
            answers.append(response)
            return response

        client = DICOMwebClient(
            destination.url,
            session=_session(
                destination, self._timeouts.response_s, _Session(going_on, most_bytes)
            ),
            callback=heard,
            timeout=(self._timeouts.connect_s, self._timeouts.response_s),
        )
        client.set_http_retry_params(retry=False)
        return client, answers


@contextmanager
def _translated() -> Iterator[None]:
    """What requests itself would raise of an answer that breaks off, or does not end."""
    try:
        yield
    except urllib3.exceptions.HTTPError as fault:
        raise requests.ConnectionError(fault) from fault
    except TimeoutError as fault:
        raise requests.Timeout("the answer does not end") from fault


class _Session(requests.Session):
    """Follows no redirection: what the first server says is the answer. It has to end in time.

    What is sent in pieces may take long: now and then it is said that it goes on.
    """

    def __init__(self, going_on: Beginning, most_bytes: int) -> None:
        super().__init__()
        self._going_on, self._most_bytes = going_on, most_bytes

    def send(self, request: Any, **kwargs: Any) -> Any:
        """The response, whole.

        Raises:
            requests.RequestException: it did not come, or did not end in time, or has no end.
        """
        if isinstance(request.body, Iterator):
            request.body = self._told(request.body)
        response, body = super().send(request, **{**kwargs, "stream": True}), bytearray()
        with response, _translated(), response.raw.in_time():
            while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
                body += piece
                if len(body) > self._most_bytes:
                    raise https.TooLargeError
        response._content = bytes(body)  # as Response.content itself keeps it
        return response

    def _told(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        said_s = time.monotonic()
        for piece in pieces:
            if time.monotonic() - said_s > _SAID_S:
                self._going_on()
                said_s = time.monotonic()
            yield piece

    def get_redirect_target(self, resp: Any) -> None:
        """Nowhere."""


def _session(destination: DicomWeb, within_s: float, session: _Session) -> _Session:
    """The session with the destination's credentials. Raises ConfigError (see https.Adapter)."""
    session.trust_env = False  # no password from a .netrc, no proxy from the environment
    session.headers["Accept"] = _JSON
    if destination.bearer_token is not None:
        session.headers["Authorization"] = f"Bearer {_utf_8(destination.bearer_token)}"
    if destination.username is not None:
        session.auth = (_utf_8(destination.username), _utf_8(destination.password or ""))
    session.mount("http://", https.HastyAdapter(within_s))
    if destination.encrypted:
        session.mount("https://", https.Adapter(destination.tls, within_s))
    return session


def _utf_8(text: str) -> str:
    """As the library wants it, which writes Latin-1: servers ask for UTF-8 (RFC 7617, 2.1)."""
    return text.encode().decode("latin-1")
