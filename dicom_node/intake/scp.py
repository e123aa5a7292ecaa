"""The Storage and Verification SCP: pynetdicom, with what it must not decide taken out of its hand.

Admission (who may associate, and how many at once), time-outs and stopping are ours: its own limit
counts connections that never said anything, its sockets wait for ever, and its server stops by
leaving threads behind.
"""

import contextlib
import socket
import threading
import time
from typing import Any, cast

import structlog
from pydicom import Dataset, uid
from pynetdicom import (
    AE,
    AllStoragePresentationContexts,
    _config,
    build_context,
    evt,
)
from pynetdicom.pdu import P_DATA_TF

from dicom_node import config, identity, tls
from dicom_node.commitment import PUSH_MODEL, Ledger
from dicom_node.errors import InputError
from dicom_node.intake.admission import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    OUT_OF_SPACE,
    TEMPORARY_CONGESTION,
    UNJUDGED,
    Rejection,
    Senders,
)
from dicom_node.intake.intake import Intake, ReceivedInstance, StoreAnswer
from dicom_node.intake.transport import Bounds, Handler, Server
from dicom_node.status import COMMENT_CHARS, CommitmentStatus, StoreStatus
from storage import faults
from storage.errors import StorageError, UnknownKeyError
from storage.faults import Point

_log = structlog.get_logger()

# Its default handlers format every PDU for a log that is off, and would log identifiers if on.
_config.LOG_HANDLER_LEVEL = "none"

TRANSFER_SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.RLELossless,
    uid.JPEG2000,
    uid.HTJ2K,
    uid.JPEGLSNearLossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
)
"""In our order of preference, which decides each context: lossless before lossy."""

_MOST_UNSPOKEN = 256
"""Connections held beyond the associations: port monitors and peers that are negotiating."""
_MOST_UNSPOKEN_PER_ADDRESS = 64
_VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 A.4
_HARMLESS = {_VERIFICATION, PUSH_MODEL}
"""Abstract syntaxes that fill no disk."""
_POLL_S = 0.05


class Scp:
    """Receives for as long as it is started; hands each instance to the intake.

    Storage commitment reports go to the ledger, where there is one.
    """

    def __init__(self, node: config.Node, intake: Intake, *, ledger: Ledger | None = None) -> None:
        self._node, self._intake = node, intake
        self._ledger = ledger
        self._senders = Senders(node.accept)
        self._server: Server | None = None
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._established: set[Any] = set()
        self._busy: set[Any] = set()

    @property
    def port(self) -> int:
        """The port listened at, where the configuration left the choice to the system (0)."""
        if self._server is None:
            raise RuntimeError("not started")
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Associations are accepted from now on.

        Raises:
            OSError: the address cannot be listened at.
            ConfigError: a file that `tls` names cannot be used.
        """
        self._stopping.clear()
        ae, handlers = self._application_entity(), self._handlers()
        address = (self._node.host, self._node.port)
        context = None if self._node.tls is None else tls.server(self._node.tls)
        server = cast(
            Server,
            ae.make_server(
                address,
                ae.ae_title,
                evt_handlers=handlers,
                server_class=Server,
                request_handler=Handler,
            ),
        )
        server.bounds, server.tls_context = self._bounds(), context
        ae._servers.append(server)  # as its start_server() does
        threading.Thread(
            target=server.serve_forever, args=(_POLL_S,), name="scp", daemon=True
        ).start()
        self._server = server
        _log.info("listening", host=self._node.host, port=self.port, ae_title=ae.ae_title)

    def stop(self) -> None:
        """No association is accepted any more; C-STOREs under way were answered, within the grace.

        What had not come in whole by then is not stored, and its sender knows.
        """
        if self._server is None:
            return
        self._stopping.set()
        self._server.shutdown()
        deadline = time.monotonic() + self._node.timeouts.stop_grace_s
        while time.monotonic() < deadline and self._end_idle():
            with self._changed:
                self._changed.wait(_POLL_S)
        for assoc in self._server.active_associations:
            _cut(assoc)
        self._server = None
        _log.info("stopped listening")

    def _bounds(self) -> Bounds:
        node = self._node
        return Bounds(
            handshake_s=node.timeouts.association_s,
            most_pdu_bytes=node.max_pdu,
            most_message_bytes=node.limits.max_message_mb << 20,
            message_s=node.timeouts.message_s,
            most_bytes_at_once=node.limits.max_at_once_mb << 20,
            most_connections=node.max_associations + _MOST_UNSPOKEN,
            most_per_address=node.max_associations_per_address + _MOST_UNSPOKEN_PER_ADDRESS,
        )

    def _application_entity(self) -> AE:
        node = self._node
        ae = AE(ae_title=node.ae_title)
        ae.implementation_class_uid = identity.IMPLEMENTATION_CLASS_UID
        ae.maximum_pdu_size = node.max_pdu
        # Counts connections too, so it must not be reached; associations are counted in _admit().
        ae.maximum_associations = node.max_associations + 2 * _MOST_UNSPOKEN
        ae.acse_timeout = node.timeouts.association_s
        ae.network_timeout = node.timeouts.idle_s
        ae.dimse_timeout = node.timeouts.idle_s
        ae.supported_contexts = [
            build_context(context.abstract_syntax or "", list(TRANSFER_SYNTAXES))
            for context in AllStoragePresentationContexts
        ]
        ae.add_supported_context(_VERIFICATION, list(TRANSFER_SYNTAXES[:2]))
        if self._ledger is not None:  # we are the SCU, whoever opens the association
            ae.add_supported_context(
                PUSH_MODEL, list(TRANSFER_SYNTAXES[:2]), scu_role=False, scp_role=True
            )
        return ae

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_REQUESTED, self._admit),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_PDU_SENT, self._on_sent),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_RELEASED, self._on_end),
            (evt.EVT_ABORTED, self._on_end),
            (evt.EVT_CONN_CLOSE, self._on_end),
            (evt.EVT_CONN_CLOSE, self._on_close),
        ]

    def _on_open(self, event: evt.Event) -> None:
        """A peer that says half a sentence is not waited for: pynetdicom reads without time-out."""
        _set_patience(event.assoc, self._node.timeouts.association_s)

    def _on_accepted(self, event: evt.Event) -> None:
        _set_patience(event.assoc, self._node.timeouts.idle_s)

    def _admit(self, event: Any) -> None:
        """The association is one of ours, or is rejected with the reason."""
        requestor = event.assoc.requestor
        calling, address = requestor.primitive.calling_ae_title, requestor.address_info.address
        faults: dict[str, Exception] = {}
        try:
            rejection = self._rejection(event.assoc, calling.strip(), address)
        except Exception as error:  # noqa: BLE001 - pynetdicom would go on, and accept it
            rejection, faults["association not judged"] = UNJUDGED, error
        if rejection is None:
            return
        # Before a word, which may want what is wanting.
        try:
            event.assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        except Exception as error:  # noqa: BLE001 - the same: it ends without being told
            faults["rejection not sent, connection cut"] = error
            _cut(event.assoc)
        event.assoc.kill()  # waits until the rejection is sent, or its connection is gone
        for what, fault in faults.items():
            _log.error(what, address=address, exc_info=fault)
        _log.warning(
            "association rejected",
            calling_ae_title=calling.strip(),
            address=address,
            reason=rejection.reason,
        )

    def _rejection(self, assoc: Any, calling_ae_title: str, address: str) -> Rejection | None:
        called = assoc.requestor.primitive.called_ae_title.strip()
        if self._stopping.is_set():
            return TEMPORARY_CONGESTION
        if not (
            self._senders.allow(calling_ae_title, address)
            or self._comes_to_report(assoc, calling_ae_title)
        ):
            return CALLING_AE_NOT_RECOGNISED
        if self._node.check_called_ae_title and called != self._node.ae_title:
            return CALLED_AE_NOT_RECOGNISED
        if _proposed(assoc) - _HARMLESS and self._intake.is_full_for_new_senders():
            return OUT_OF_SPACE
        with self._changed:
            self._established = {a for a in self._established if a.is_alive()}
            theirs = [a.requestor.address_info.address for a in self._established].count(address)
            if (
                len(self._established) >= self._node.max_associations
                or theirs >= self._node.max_associations_per_address
            ):
                return LOCAL_LIMIT_EXCEEDED
            self._established.add(assoc)
        return None

    def _comes_to_report(self, assoc: Any, calling_ae_title: str) -> bool:
        """A destination that may not send, but answers what it was asked."""
        return (
            self._ledger is not None
            and self._ledger.knows(calling_ae_title)
            and _proposed(assoc) <= _HARMLESS
        )

    def _on_message(self, event: evt.Event) -> None:
        with self._changed:
            self._busy.add(event.assoc)

    def _on_sent(self, event: evt.Event) -> None:
        """An answer went out: of the messages an acceptor sends, each is one."""
        if isinstance(event.pdu, P_DATA_TF):
            faults.reach(Point.ANSWERED)
            with self._changed:
                self._busy.discard(event.assoc)
                self._changed.notify_all()

    def _on_end(self, event: evt.Event) -> None:
        with self._changed:
            self._established.discard(event.assoc)
            self._busy.discard(event.assoc)
            self._changed.notify_all()

    def _on_close(self, event: Any) -> None:
        """One that never asked for an association is not waited for: port monitors are many."""
        if event.assoc.requestor.primitive is None:
            event.assoc.dul.to_user_queue.put(None)

    def _on_store(self, event: evt.Event) -> Dataset:
        try:
            answer = self._intake.accept(_instance(event))
        except (MemoryError, OSError):
            _log.exception("reception failed", calling_ae_title=event.assoc.requestor.ae_title)
            answer = StoreAnswer(
                status=StoreStatus.OUT_OF_RESOURCES, comment="out of resources, try again later"
            )
        except Exception:  # noqa: BLE001 - the SCP handler: the sender is told, the node lives
            _log.exception("reception failed", calling_ae_title=event.assoc.requestor.ae_title)
            answer = StoreAnswer(
                status=StoreStatus.PROCESSING_FAILURE, comment="internal error, see the node's log"
            )
        return _status(answer)

    def _on_report(self, event: Any) -> tuple[int, None]:
        """Success once what was reported is durable; else the destination reports again."""
        if self._ledger is None:
            return CommitmentStatus.PROCESSING_FAILURE, None
        try:
            self._ledger.hear(event, event.assoc.requestor.ae_title.strip())
        except (InputError, UnknownKeyError) as fault:
            _log.warning("report refused", reason=str(fault))
            return CommitmentStatus.INVALID_ARGUMENT, None
        except StorageError as fault:
            _log.warning("report not taken", reason=str(fault))
            return CommitmentStatus.RESOURCE_LIMITATION, None
        except Exception:  # noqa: BLE001 - the SCP handler, as in _on_store
            _log.exception("report failed")
            return CommitmentStatus.PROCESSING_FAILURE, None
        return CommitmentStatus.SUCCESS, None

    def _end_idle(self) -> int:
        """Abort associations without a message under way; returns how many have one."""
        with self._changed:
            under_way = {a for a in self._established if a in self._busy or a.dimse.message}
            idle = self._established - under_way
        for assoc in idle:
            assoc.abort(block=False)
        for assoc in idle:
            assoc.kill()
        return len(under_way)


def _proposed(assoc: Any) -> set[str]:
    """The abstract syntaxes that the requestor proposes."""
    contexts = assoc.requestor.primitive.presentation_context_definition_list
    return {str(context.abstract_syntax) for context in contexts}


def _instance(event: Any) -> ReceivedInstance:
    request, data_set = event.request, event.request.DataSet
    return ReceivedInstance(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        calling_ae_title=event.assoc.requestor.ae_title.strip(),
        address=event.assoc.requestor.address_info.address,
        data_set=data_set.getvalue() if data_set else b"",
    )


def _status(answer: StoreAnswer) -> Dataset:
    status = Dataset()
    status.Status = int(answer.status)
    if answer.comment:
        status.ErrorComment = answer.comment[:COMMENT_CHARS]
    return status


def _set_patience(assoc: Any, seconds: float) -> None:
    wrapped = assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        wrapped.socket.settimeout(seconds)


def _cut(assoc: Any) -> None:
    """The connection is gone, whatever its threads were waiting for."""
    wrapped = assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        with contextlib.suppress(OSError):
            wrapped.socket.shutdown(socket.SHUT_RDWR)
