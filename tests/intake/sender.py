"""A Storage SCU that sends bytes as they are, whatever they are, and says what it was told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import uid
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE

from tests.intake.films import CLASS, INSTANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The status and Error Comment of a C-STORE-RSP."""

    status: int
    comment: str


@contextmanager
def association(
    port: int,
    *syntaxes: str,
    calling: str = "SENDER",
    called: str = "VALD",
    sop_class_uid: str = CLASS,
    within_s: float = 30,
) -> Iterator[Any]:
    """An association with one context that proposes `syntaxes`, in this order.

    However long nothing is said, it is never our side that ends it.
    """
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = within_s
    ae.network_timeout = None
    context = build_context(sop_class_uid, list(syntaxes or (uid.ExplicitVRLittleEndian,)))
    assoc = ae.associate("127.0.0.1", port, [context], ae_title=called)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def store(
    assoc: Any,
    data_set: bytes | None,
    *,
    sop_instance_uid: str = INSTANCE,
    sop_class_uid: str = CLASS,
) -> Told | None:
    """What the peer says to one C-STORE-RQ; None if it says nothing."""
    assoc._reactor_checkpoint.clear()  # as send_c_store() does: the answer is for us
    send(assoc, data_set, sop_instance_uid=sop_instance_uid, sop_class_uid=sop_class_uid)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    if answer is None:
        return None
    return Told(status=answer.Status, comment=str(answer.ErrorComment or ""))


def send(
    assoc: Any,
    data_set: bytes | None,
    *,
    sop_instance_uid: str = INSTANCE,
    sop_class_uid: str = CLASS,
) -> None:
    """One C-STORE-RQ, whose answer is not waited for."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class_uid, sop_instance_uid
    if data_set is not None:
        request.DataSet = BytesIO(data_set)
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)


def rejection_of(assoc: Any) -> tuple[int | None, int | None, int | None] | None:
    """Result, source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    primitive: A_ASSOCIATE | None = assoc.acceptor.primitive
    if not assoc.is_rejected or primitive is None:
        return None
    return primitive.result, primitive.result_source, primitive.diagnostic
