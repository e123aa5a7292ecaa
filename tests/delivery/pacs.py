"""A PACS that does as it is told: answers, aborts, is silent or hangs up at the n-th object.

Asked for storage commitment, it reports on the same association, before it has answered the request
on one of its own, on one later, or never.
"""

import itertools
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu import P_DATA_TF

ABORT, HANG_UP, SILENCE, SLOWLY = "abort", "hang up", "silence", "slowly"
SAME, BEFORE, LATER, NEVER = "same", "before", "later", "never"
VERIFICATION = "1.2.840.10008.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
COMMITMENT, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
CLASSES = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.33")
"""Secondary Capture and Comprehensive SR Storage."""


@dataclass(slots=True)
class Pacs:
    """What it was sent, in order; what it answers next, success where nothing is left."""

    port: int = 0
    answers: list[int | str | Dataset] = field(default_factory=list)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    associations: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    # Storage commitment: what it was asked, how it answers next, the way and failures of reports.
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    action_statuses: list[int] = field(default_factory=list)
    reports: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    answers_to_reports: list[int | None] = field(default_factory=list)
    reports_to: int = 0
    # C-FIND: what it says it holds, what it was asked, and how it ends.
    holds: list[str] = field(default_factory=list)
    endless: bool = False
    padding: int = 0
    """So many bytes of it come with each instance that it holds."""
    queries: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    find_status: int = 0x0000
    find_statuses: dict[str, int] = field(default_factory=dict)
    study: dict[str, str] = field(default_factory=dict)
    former: dict[str, str] = field(default_factory=dict)
    studies_asked_for: int = 0
    # Rejections of the next associations that propose storage, and C-ECHOs it answered.
    rejections: list[tuple[int, int, int]] = field(default_factory=list)
    echoes: int = 0
    echo_status: int = 0x0000
    calling: str = "PACS"
    says_first: Callable[[Any], None] = lambda _: None
    """What it does before it answers a request."""
    _reporting: list[threading.Thread] = field(default_factory=list)

    def commit(self, event: Any) -> tuple[int, None]:
        """N-ACTION: as the next status and the next report say."""
        self.says_first(event)
        status = self.action_statuses.pop(0) if self.action_statuses else 0x0000
        if status:
            return status, None
        asked = event.action_information
        uids = sorted(str(i.ReferencedSOPInstanceUID) for i in asked.ReferencedSOPSequence)
        self.asked.append((str(asked.TransactionUID), uids))
        way, failed = self.reports.pop(0) if self.reports else (NEVER, {})
        if way == BEFORE:
            self.answers_to_reports.append(self.report(asked.TransactionUID, uids, failed))
        elif way != NEVER:
            self._report_later(event, way, self.asked[-1], failed)
        return 0x0000, None

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        """C-FIND at the level of images, or of one study."""
        self.says_first(event)
        ds = event.identifier
        if ds.QueryRetrieveLevel == "STUDY":
            yield from self._find_study(str(ds.StudyInstanceUID or ""))
            return
        said = ds.get("SOPInstanceUID", [])
        uids = [said] if isinstance(said, str) else [str(uid) for uid in said]
        study, series = str(ds.StudyInstanceUID or ""), str(ds.get("SeriesInstanceUID") or "")
        self.queries.append((ds.QueryRetrieveLevel, study, series, uids))
        own = (self.find_statuses[uid] for uid in uids if uid in self.find_statuses)
        if status := next(own, self.find_status):
            yield status, None
            return
        for uid in itertools.cycle(self.holds) if self.endless else self.holds:
            found = Dataset()
            found.QueryRetrieveLevel, found.SOPInstanceUID = "IMAGE", uid
            found.TextValue = "x" * self.padding
            yield 0xFF00, found

    def _find_study(self, uid: str) -> Iterator[tuple[int, Dataset | None]]:
        self.studies_asked_for += 1
        if self.find_status:
            yield self.find_status, None
            return
        for study in filter(None, (self.former, self.study)):
            found = Dataset()
            found.QueryRetrieveLevel, found.StudyInstanceUID = "STUDY", uid
            for keyword, value in study.items():
                setattr(found, keyword, value)
            yield 0xFF00, found

    def report(self, transaction: str, uids: list[str], failed: dict[str, int]) -> int | None:
        """The status that the node answers to a report by an association with roles reversed."""
        ae = AE(ae_title=self.calling)
        ae.add_requested_context(COMMITMENT)
        role = build_role(COMMITMENT, scp_role=True)
        assoc = ae.associate("127.0.0.1", self.reports_to, ext_neg=[role], ae_title="VALD")
        if not assoc.is_established:
            return None
        try:
            return _say(assoc, transaction, uids, failed)
        finally:
            assoc.release()

    def may_store_at(self, port: int) -> bool:
        """Whether the node accepts an association of it that proposes storage."""
        ae = AE(ae_title=self.calling)
        ae.add_requested_context(CLASSES[0])
        assoc = ae.associate("127.0.0.1", port, ae_title="VALD")
        accepted = bool(assoc.is_established)
        if accepted:
            assoc.release()
        return accepted

    def finish_reporting(self) -> None:
        """What it had to report later is reported."""
        for thread in self._reporting:
            thread.join(30)

    def _report_later(
        self, event: Any, way: str, asked: tuple[str, list[str]], failed: dict[str, int]
    ) -> None:
        """On the association of the request where the way is the same, or on one of its own."""
        answered = threading.Event()
        event.assoc.bind(evt.EVT_PDU_SENT, lambda _: answered.set())

        def run() -> None:
            assert answered.wait(30)  # the answer to the request goes first
            same = way == SAME
            said = _say(event.assoc, *asked, failed) if same else self.report(*asked, failed)
            self.answers_to_reports.append(said)

        self._reporting.append(threading.Thread(target=run, daemon=True))
        self._reporting[-1].start()

    def store(self, event: Any) -> int | Dataset:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append((uid, event.encoded_dataset(include_meta=False)))
        answer = self.answers.pop(0) if self.answers else 0x0000
        self.says_first(event)
        if not isinstance(answer, str):
            return answer
        if answer == ABORT:
            event.assoc.abort()
        elif answer == HANG_UP:
            event.assoc.dul.socket.socket.close()
        else:
            self.done.wait(60 if answer == SILENCE else 0.5)
        return 0x0000

    def stop_reading(self, event: Any) -> None:
        if isinstance(event.pdu, P_DATA_TF):
            self.done.wait(60)

    def requested(self, event: Any) -> None:
        self.associations += 1
        proposed = event.assoc.requestor.primitive.presentation_context_definition_list
        if self.rejections and any(c.abstract_syntax in CLASSES for c in proposed):
            event.assoc.acse.send_reject(*self.rejections.pop(0))
            event.assoc.kill()

    def echo(self, event: Any) -> int:
        self.says_first(event)
        self.echoes += 1
        return self.echo_status


@contextmanager
def running(
    classes: Sequence[str] = CLASSES,
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian,),
    *,
    knows: str = "",
    called: str = "",
    most: int = 10,
    deaf: bool = False,
    commitment: bool = False,
    verification: bool = True,
    tls: ssl.SSLContext | None = None,
    most_pdu_bytes: int | None = None,
) -> Iterator[Pacs]:
    """A PACS that listens at a port of the system's choice."""
    pacs = Pacs()
    ae = AE(ae_title=called or "PACS")
    for sop_class in classes:
        ae.add_supported_context(sop_class, list(syntaxes))
    if verification:
        ae.add_supported_context(VERIFICATION)
    if commitment:
        ae.add_supported_context(COMMITMENT)
        ae.add_supported_context(FIND)
    ae.require_calling_aet = [knows] if knows else []
    ae.require_called_aet = bool(called)
    ae.maximum_associations = most
    if most_pdu_bytes is not None:
        ae._maximum_pdu_size = most_pdu_bytes  # its setter takes none that leaves no room
    handlers: list[Any] = [
        (evt.EVT_C_STORE, pacs.store),
        (evt.EVT_REQUESTED, pacs.requested),
        (evt.EVT_N_ACTION, pacs.commit),
        (evt.EVT_C_FIND, pacs.find),
        (evt.EVT_C_ECHO, pacs.echo),
    ]
    if deaf:
        handlers.append((evt.EVT_PDU_RECV, pacs.stop_reading))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
    assert server is not None
    pacs.port = server.server_address[1]
    try:
        yield pacs
    finally:
        pacs.done.set()
        server.shutdown()


def _say(assoc: Any, transaction: str, uids: list[str], failed: dict[str, int]) -> int | None:
    """N-EVENT-REPORT (PS3.4 table J.3-2); the status it was answered."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = [_item(uid) for uid in uids if uid not in failed]
    if failed:
        ds.FailedSOPSequence = [_item(uid, reason) for uid, reason in failed.items()]
    kind = 2 if failed else 1
    answer, _ = assoc.send_n_event_report(ds, kind, COMMITMENT, WELL_KNOWN)
    status: int | None = answer.get("Status")
    return status


def _item(uid: str, reason: int = 0) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CLASSES[0], uid
    if reason:
        item.FailureReason = reason
    return item
