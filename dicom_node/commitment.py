"""What a destination says it has stored for good: storage commitment reports (PS3.4 Annex J).

A report comes on the association that asked, on a later one, or on one that the destination opens
with roles reversed; whichever process takes it, the same ledger is written.

| Failure Reason (0008,1197), PS3.3 C.14-1      | then                                |
|-----------------------------------------------|-------------------------------------|
| 0131 duplicate transaction UID                | asked again, with growing delay     |
| 0122 class not supported, 0119 class conflict | sent again at the longest delay     |
| 0112 no such object, 0110, 0213 and any other | sent again, with growing delay      |
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydicom import Dataset

from dicom_node import attributes, backoff, structure
from dicom_node.config import Destination, Retry
from dicom_node.errors import InputError
from storage import faults
from storage.faults import Point
from storage.jobs import Delivery
from storage.store import JobStore

_log = structlog.get_logger()

PUSH_MODEL = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class (PS3.4 J.3)."""
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP Instance (PS3.4 J.3.5)."""

_MOST_BYTES, _MOST_ELEMENTS = 1 << 18, 10_000
"""Of a report: it names at most 128 instances (`delivery.batch`), with some 300 bytes and five
elements each. Half a million empty items, 4 MB, would take its reader half a minute and 300 MB."""
_DUPLICATE_TRANSACTION = 0x0131
_SLOW = {
    0x0119: "class-instance conflict",
    0x0122: "SOP class not supported",
}
_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object there",
    0x0213: "out of resources",
    _DUPLICATE_TRANSACTION: "duplicate transaction UID",
    **_SLOW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an N-EVENT-REPORT says of the instances of one transaction, by SOP Instance UID."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]


def read(event: Any) -> Report:
    """The Event Information of a storage commitment result (PS3.4 table J.3-2).

    Args:
        event: pynetdicom's, of an N-EVENT-REPORT. It is decoded only when its size is known.

    Raises:
        InputError: it names no transaction or no instance, or is more than one transaction's.
    """
    encoded = event.request.EventInformation
    whole = encoded.getvalue() if encoded else b""
    if len(whole) > _MOST_BYTES:
        raise InputError("the report is too large")
    structure.check(whole, str(event.context.transfer_syntax), _MOST_ELEMENTS)
    try:
        report = _said(event.event_information)
    except attributes.UNREADABLE as error:
        raise InputError("the report cannot be read") from error
    if not report.transaction_uid:
        raise InputError("the report names no transaction")
    return report


def _said(ds: Dataset) -> Report:
    return Report(
        transaction_uid=str(ds.get("TransactionUID") or ""),
        committed=tuple(
            str(item.ReferencedSOPInstanceUID) for item in ds.get("ReferencedSOPSequence") or ()
        ),
        failed={
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or 0x0110)
            for item in ds.get("FailedSOPSequence") or ()
        },
    )


class Ledger:
    """Reports become rows; safe to call from several threads and processes."""

    def __init__(
        self,
        *,
        store: JobStore,
        destinations: Mapping[str, Destination],
        retry: Retry,
        clock: Callable[[], datetime],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store, self._destinations = store, dict(destinations)
        self._retry, self._clock, self._chance = retry, clock, chance

    def knows(self, ae_title: str) -> bool:
        """Whether an AE of this title may report: a destination that is asked for commitment."""
        return any(self._is_asked(name, ae_title) for name in self._destinations)

    def _is_asked(self, name: str, ae_title: str) -> bool:
        """Whether the destination of that name has this AE title, and is asked for commitment."""
        place = self._destinations.get(name)
        return (
            place is not None
            and place.ae_title == ae_title
            and place.commitment == "storage_commitment"
        )

    def hear(self, event: Any, ae_title: str) -> None:
        """The report is read, if an AE of that title may report at all, and taken.

        Args:
            event: pynetdicom's, of an N-EVENT-REPORT.
            ae_title: whose it is.

        Raises:
            InputError: that AE is asked for nothing, or as by `read` and `take`.
            UnknownKeyError: as by `take`.
            StoreUnavailableError: as by `take`.
        """
        if not self.knows(ae_title):
            raise InputError("its sender is not asked for commitment")
        self.take(read(event), ae_title)

    def take(self, report: Report, ae_title: str) -> None:
        """What was committed is COMMITTED, what failed is DUE again, durably.

        Only what the transaction asked about counts, and only from the AE that was asked. Said
        twice, or late, a report has the effect of once: what was sent again or committed meanwhile
        stays so, and of what was sent again nothing is said. It need not answer the last request: a
        destination may take longer for its report than we wait before we ask again, each time.

        Raises:
            InputError: an AE of that title was not asked in this transaction.
            UnknownKeyError: the transaction is none of ours.
            StoreUnavailableError: say it again later.
        """
        transaction = self._store.transaction(report.transaction_uid)
        name = transaction.destination
        if not self._is_asked(name, ae_title):
            raise InputError(f"{ae_title} reports what {name} was asked")
        faults.reach(Point.REPORTED)
        # What is named as both has failed: sent again it is the same object.
        said = [uid for uid in report.committed if uid not in report.failed]
        stored = [uid for uid in said if uid in transaction.sop_instance_uids]
        committed = self._store.commit(name, stored, self._clock(), transaction.uid)
        faults.reach(Point.COMMITTED)
        asked = self._store.asked_in(report.transaction_uid)
        for delivery in asked:
            if delivery.sop_instance_uid in report.failed:
                self._fail(delivery, report.failed[delivery.sop_instance_uid])
        _log.info(
            "commitment reported",
            destination=name,
            transaction_uid=report.transaction_uid,
            committed=committed,
            failed=len(report.failed),
        )

    def _fail(self, delivery: Delivery, reason: int) -> None:
        words = f"not committed: {_REASONS.get(reason, 'it failed')} ({reason:04X})"
        now = self._clock()
        if reason == _DUPLICATE_TRANSACTION:
            delay_s = backoff.delay_s(delivery.asked, self._retry, self._chance())
            later = now + timedelta(seconds=delay_s)
            self._store.ask_again(delivery.transaction_uid, later, words)
            return
        retry = self._retry
        if reason in _SLOW:
            retry = retry.model_copy(update={"first_delay_s": retry.max_delay_s})
        delay_s = backoff.delay_s(delivery.attempts, retry, self._chance())
        later = now + timedelta(seconds=delay_s)
        self._store.send_again(delivery, later, words, f"{reason:04X}")
        _log.warning(
            "not committed",
            destination=delivery.destination,
            sop_instance_uid=delivery.sop_instance_uid,
            reason=words,
        )
