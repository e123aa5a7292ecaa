"""A received instance is kept, then recorded, then acknowledged: in this order, or not at all."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from dicom_node import structure
from dicom_node.errors import InputError
from dicom_node.intake import part10
from dicom_node.intake.pressure import Level, Pressure
from dicom_node.status import StoreStatus
from storage import faults
from storage.errors import ObjectMissingError, OutOfSpaceError, StorageError
from storage.faults import Point
from storage.jobs import NewReceived, ObjectRef
from storage.objects import ObjectStore
from storage.store import JobStore

_log = structlog.get_logger()

# PS3.5 9.1, but for leading zeros: devices in use write them, and they harm nobody here.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedInstance:
    """What came with one C-STORE-RQ; `data_set` is encoded as it came."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    address: str
    data_set: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAnswer:
    """A DIMSE status and its Error Comment (PS3.7 C.4.2), without patient data."""

    status: int
    comment: str = ""


class Intake:
    """Takes instances in; safe to call from several threads and processes."""

    def __init__(
        self,
        store: JobStore,
        objects: ObjectStore,
        clock: Callable[[], datetime],
        pressure: Pressure | None = None,
    ) -> None:
        self._store, self._objects, self._clock = store, objects, clock
        self._pressure = pressure

    def is_full_for_new_senders(self) -> bool:
        """Whether associations that would store are better not begun."""
        return self._pressure is not None and self._pressure.look().level >= Level.SOFT

    def accept(self, instance: ReceivedInstance) -> StoreAnswer:
        """Success if, and only if, file and row are durable.

        What cannot be parsed is refused for good; a full disk or a store that is away is said to
        be the moment's, so that the sender tries again.
        """
        refusal = self._full(instance) or _refusal(instance)
        if refusal is not None:
            return refusal
        try:
            faults.reach(Point.RECEIVED)
            kept = self._keep(instance)
            faults.reach(Point.KEPT)
            received = self._store.receive(self._new(instance, kept))
            if self._kept_again(instance, received.object):
                # Who looked meanwhile has decided that the file is gone: it is looked at again.
                received = self._store.receive(self._new(instance, kept))
            faults.reach(Point.RECORDED)
        except OutOfSpaceError:
            return _try_again("no space left, try again later", instance)
        except StorageError:
            # Whatever the store's trouble is, the film is not to be given up by its sender.
            return _try_again("storage is not available, try again later", instance)
        _log.info(
            "received",
            sop_instance_uid=received.sop_instance_uid,
            number=received.number,
            calling_ae_title=instance.calling_ae_title,
            size_bytes=received.object.size_bytes,
        )
        return StoreAnswer(status=StoreStatus.SUCCESS)

    def _full(self, instance: ReceivedInstance) -> StoreAnswer | None:
        """Try later: the hard limit is reached."""
        look = self._pressure.look() if self._pressure is not None else None
        if look is None or look.level < Level.HARD:
            return None
        status = StoreStatus.OUT_OF_RESOURCES
        return _refused(status, f"the node is full: {look.reason}", instance)

    def _keep(self, instance: ReceivedInstance) -> ObjectRef:
        head = part10.head(
            instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid
        )
        hasher = hashlib.sha256(head)
        hasher.update(instance.data_set)
        digest = hasher.hexdigest()
        name = f"received/{digest[:2]}/{digest}.dcm"
        return self._objects.keep(name, [head, instance.data_set])

    def _kept_again(self, instance: ReceivedInstance, kept: ObjectRef) -> bool:
        """The file is there; whether it was not, since it was purged between file and row."""
        try:
            self._objects.demand(kept)
        except ObjectMissingError:
            self._keep(instance)
            return True
        return False

    def _new(self, instance: ReceivedInstance, kept: ObjectRef) -> NewReceived:
        return NewReceived(
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            calling_ae_title=instance.calling_ae_title,
            address=instance.address,
            received_at=self._clock(),
            object=kept,
        )


def _refusal(instance: ReceivedInstance) -> StoreAnswer | None:
    """Why the instance cannot be taken, whenever it is sent; None if it can."""
    if not (_is_uid(instance.sop_class_uid) and _is_uid(instance.sop_instance_uid)):
        return _refused(StoreStatus.CANNOT_UNDERSTAND, "the request has no valid UID", instance)
    try:
        said = structure.check(instance.data_set, instance.transfer_syntax_uid)
    except InputError as fault:
        return _refused(StoreStatus.CANNOT_UNDERSTAND, str(fault), instance)
    if not (said.sop_class_uid and said.sop_instance_uid):
        return _refused(StoreStatus.CANNOT_UNDERSTAND, "the data set has no SOP UIDs", instance)
    mismatch = StoreStatus.DATA_SET_DOES_NOT_MATCH
    if said.sop_class_uid != instance.sop_class_uid:
        return _refused(mismatch, "SOP Class UID is not the request's", instance)
    if said.sop_instance_uid != instance.sop_instance_uid:
        return _refused(mismatch, "SOP Instance UID is not the request's", instance)
    return None


def _is_uid(text: str) -> bool:
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def _refused(status: int, comment: str, instance: ReceivedInstance) -> StoreAnswer:
    _log.warning("refused", reason=comment, **_keys(instance, status))
    return StoreAnswer(status=status, comment=comment)


def _try_again(comment: str, instance: ReceivedInstance) -> StoreAnswer:
    _log.error(
        "not stored", reason=comment, exc_info=True, **_keys(instance, StoreStatus.OUT_OF_RESOURCES)
    )
    return StoreAnswer(status=StoreStatus.OUT_OF_RESOURCES, comment=comment)


def _keys(instance: ReceivedInstance, status: int) -> dict[str, str]:
    return {
        "status": f"{status:04X}",
        "calling_ae_title": instance.calling_ae_title,
        "address": instance.address,
        "sop_instance_uid": instance.sop_instance_uid[:_UID_LENGTH],
    }
