"""A PACS that does as it is told: answers, aborts, is silent or hangs up at the n-th object."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF

ABORT, HANG_UP, SILENCE = "abort", "hang up", "silence"
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

    def store(self, event: Any) -> int | Dataset:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append((uid, event.encoded_dataset(include_meta=False)))
        answer = self.answers.pop(0) if self.answers else 0x0000
        if not isinstance(answer, str):
            return answer
        if answer == ABORT:
            event.assoc.abort()
        elif answer == HANG_UP:
            event.assoc.dul.socket.socket.close()
        else:
            self.done.wait(60)
        return 0x0000

    def stop_reading(self, event: Any) -> None:
        if isinstance(event.pdu, P_DATA_TF):
            self.done.wait(60)

    def requested(self, _: Any) -> None:
        self.associations += 1


@contextmanager
def running(
    classes: Sequence[str] = CLASSES,
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian,),
    *,
    knows: str = "",
    called: str = "",
    most: int = 10,
    deaf: bool = False,
) -> Iterator[Pacs]:
    """A PACS that listens at a port of the system's choice."""
    pacs = Pacs()
    ae = AE(ae_title=called or "PACS")
    for sop_class in classes:
        ae.add_supported_context(sop_class, list(syntaxes))
    ae.require_calling_aet = [knows] if knows else []
    ae.require_called_aet = bool(called)
    ae.maximum_associations = most
    handlers: list[Any] = [(evt.EVT_C_STORE, pacs.store), (evt.EVT_REQUESTED, pacs.requested)]
    if deaf:
        handlers.append((evt.EVT_PDU_RECV, pacs.stop_reading))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    pacs.port = server.server_address[1]
    try:
        yield pacs
    finally:
        pacs.done.set()
        server.shutdown()
