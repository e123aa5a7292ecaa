"""What was delivered is asked about: has the destination stored it for good?

By storage commitment (PS3.4 Annex J, push model) where the destination has it, otherwise by a query
for the instances. The transaction is committed before the request is sent, since the report may be
here before the request has returned.
"""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pydicom
import structlog
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, build_context, evt
from pynetdicom.pdu import P_DATA_TF

from dicom_node import backoff
from dicom_node.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, Ledger
from dicom_node.config import DeliverySettings, Destination, DicomWeb
from dicom_node.delivery import associate, outcome
from dicom_node.delivery.gateway import Anywhere, Gateway
from dicom_node.delivery.query import Series, UnansweredError
from dicom_node.errors import InputError, TransientError
from dicom_node.status import CommitmentStatus
from storage import faults
from storage.errors import (
    ObjectsUnavailableError,
    StorageError,
    StoreUnavailableError,
    UnknownKeyError,
)
from storage.faults import Point
from storage.jobs import Delivery, Parcel
from storage.objects import ObjectStore
from storage.store import JobStore

_log = structlog.get_logger()

_REQUEST = 1
"""Action Type ID of a request for storage commitment (PS3.4 table J.3-1)."""
_POLL_S = 0.1
_READ = ("StudyInstanceUID",)
_NO_STUDY = "the kept files are gone or cannot be read, and with them what study to look in"
_NO_ANSWER = "no answer: the association ended or timed out"
_SOONER = 0.5
"""Of the delay of what was not answered: what was not asked comes first then, whatever failed."""
_LOOKS = 3
"""So often in a row a result is looked for, and not found, before it is sent again."""
_MISSED = "not found there, looked {} times in a row"
_WAS_MISSED = re.compile(_MISSED.format(r"(\d+)"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who we are, to those that are asked."""

    ae_title: str
    implementation_class_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """Why a destination was not asked, or does not answer; empty where it does.

    `is_noted` where everything that was not answered has its time.
    """

    why: str
    is_noted: bool = False


class Commitment:
    """Asks every destination that promises storage; holds no state."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        ledger: Ledger,
        asker: Asker,
        gateway: Gateway,
        destinations: Mapping[str, Anywhere],
        settings: DeliverySettings,
        new_uid: Callable[[], str],
        chance: Callable[[], float],
        stop: threading.Event | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Once `stop` is set nothing more is asked."""
        self._store, self._objects = store, objects
        self._ledger, self._asker, self._gateway = ledger, asker, gateway
        self._asked = {name: d for name, d in destinations.items() if d.commitment != "none"}
        self._settings, self._new_uid, self._chance = settings, new_uid, chance
        self._clock_s, self._stop = clock_s, stop or threading.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """The destinations that are asked."""
        return tuple(self._asked)

    def serve(self, name: str, now: datetime) -> int:
        """One destination: batch after batch, until nothing is due or it is in trouble.

        Each has a tick of its own: one that does not answer delays no other. Returns how many
        results were asked about.

        Raises:
            StoreUnavailableError: the store is away; what was asked is asked again in time.
        """
        began = self._clock_s()

        def moment() -> datetime:  # asking takes time: each batch has its own
            return now + timedelta(seconds=self._clock_s() - began)

        asked, health = 0, self._store.destination(name)
        if health.held or health.retry_at is not None:
            return asked
        while parcels := self._claim(name, uid := self._new_uid(), moment()):
            asked += len(parcels)
            if not self._ask_one(name, uid, parcels, moment()):
                break
        return asked

    def _claim(self, name: str, uid: str, now: datetime) -> list[Parcel]:
        if self._stop.is_set():
            return []
        again_at = now + timedelta(seconds=self._settings.commitment.report_within_s)
        return self._store.ask(name, uid, now, again_at, self._settings.batch)

    def _ask_one(self, name: str, uid: str, parcels: Sequence[Parcel], now: datetime) -> bool:
        """Whether the destination took the request, or answers; where not it is asked later."""
        faults.reach(Point.ASKING)
        trouble = self._trouble(name, uid, parcels, now)
        faults.reach(Point.ASKED)
        emit = _log.warning if trouble.why else _log.info
        emit(
            "commitment not asked" if trouble.why else "commitment asked",
            destination=name,
            transaction_uid=uid,
            results=len(parcels),
            reason=trouble.why,
        )
        if trouble.why and not trouble.is_noted:
            asks = max(parcel.delivery.asked for parcel in parcels)
            self._store.ask_again(uid, self._later(asks, now), _not_asked(trouble.why))
        return not trouble.why

    def _trouble(self, name: str, uid: str, parcels: Sequence[Parcel], now: datetime) -> _Trouble:
        """What was in the way of asking; what nobody foresaw too, which has its growing delay.

        Raises:
            StorageError: the store is away.
        """
        place = self._asked[name]
        try:
            if isinstance(place, DicomWeb) or place.commitment == "query":
                return self._look_for(name, uid, parcels, now)
            return _Trouble(why=self._request(place, uid, parcels))
        except StorageError:
            raise
        except Exception as fault:  # noqa: BLE001 - as at the worker's loop: the rows must say it
            _log.exception("asking failed")
            return _Trouble(why=outcome.unforeseen(fault).reason)

    def _later(self, times: int, now: datetime) -> datetime:
        delay_s = backoff.delay_s(times, self._settings.retry, self._chance())
        return now + timedelta(seconds=delay_s)

    def _look_for(self, name: str, uid: str, parcels: Sequence[Parcel], now: datetime) -> _Trouble:
        """What is found is committed; what is not is looked for again, then sent again."""
        wanted = self._by_series(parcels)
        looked_for = {one for uids in wanted.values() for one in uids}
        trouble = _Trouble(why="")
        try:
            found = self._gateway.instances(self._asked[name], wanted, self._goes_on)
        except UnansweredError as fault:
            found = {*fault.found}
            looked_for -= fault.unanswered.keys() | fault.unasked
            self._postpone(uid, fault, parcels, now)
            trouble = _Trouble(why=fault.trouble, is_noted=True)
        except TransientError as fault:
            return _Trouble(why=str(fault))
        self._store.commit(name, sorted(found), now)
        faults.reach(Point.COMMITTED)
        still = self._store.asked_in(uid)
        missing = [delivery for delivery in still if delivery.sop_instance_uid in looked_for]
        if still and not missing and not trouble.is_noted:
            return _Trouble(why=_NO_STUDY)
        for looks in {_looks(delivery) for delivery in missing}:  # each by its own: some are new
            self._miss(uid, looks, [one for one in missing if _looks(one) == looks], now)
        return trouble

    def _goes_on(self) -> bool:
        return not self._stop.is_set()

    def _postpone(
        self, uid: str, said: UnansweredError, parcels: Sequence[Parcel], now: datetime
    ) -> None:
        """What it did not say is asked later; before that, what it was not asked for that reason.

        So what nobody ever answers keeps nothing else from being asked.
        """
        asks = {one.delivery.sop_instance_uid: one.delivery.asked for one in parcels}
        together = defaultdict[tuple[int, str], list[str]](list)  # each is a write
        for one, why in said.unanswered.items():
            together[asks[one], why].append(one)
        for (times, why), uids in together.items():
            self._store.ask_again(uid, self._later(times, now), _not_asked(why), uids)
            _log.warning("not answered", transaction_uid=uid, results=len(uids), reason=why)
        if said.unasked:
            times = min(asks[one] for one in said.unasked)
            sooner = now + (self._later(times, now) - now) * _SOONER
            self._store.ask_again(uid, sooner, _not_asked(said.trouble), said.unasked)

    def _miss(self, uid: str, looks: int, missing: Sequence[Delivery], now: datetime) -> None:
        """So often these were looked for, and were not there."""
        words = _MISSED.format(looks)
        if looks < _LOOKS:  # its index may lag behind its store
            uids = [delivery.sop_instance_uid for delivery in missing]
            self._store.ask_again(uid, self._later(looks, now), words, uids)
            return
        for delivery in missing:
            self._store.send_again(delivery, self._later(delivery.attempts, now), words)

    def _by_series(self, parcels: Sequence[Parcel]) -> dict[Series, list[str]]:
        wanted: dict[Series, list[str]] = {}
        for parcel in parcels:
            try:
                path = self._objects.local_path(parcel.result.object)
                ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_READ))
            except ObjectsUnavailableError:
                break  # so are the others, and each may take half a minute to say so
            except (StorageError, InvalidDicomError, EOFError, OSError):
                continue  # nobody can look for it; that is no proof that it is not there
            series = Series(
                study_instance_uid=str(ds.get("StudyInstanceUID") or ""),
                series_instance_uid=parcel.result.series_instance_uid,
            )
            wanted.setdefault(series, []).append(parcel.result.sop_instance_uid)
        return wanted

    def _request(self, destination: Destination, uid: str, parcels: Sequence[Parcel]) -> str:
        """The N-ACTION, and a wait for a report on the same association; what was in the way."""
        listener = _Listener(self._ledger, destination.ae_title)
        with associate.opened(
            self._application_entity(),
            destination,
            self._settings.timeouts,
            [build_context(PUSH_MODEL)],
            handlers=listener.handlers,
        ) as (assoc, trouble):
            if trouble or assoc is None:
                return trouble
            trouble = _send(assoc, uid, parcels)
            if not trouble:
                self._linger(assoc, listener, uid)
            return trouble

    def _linger(self, assoc: Any, listener: "_Listener", uid: str) -> None:
        """Some report on the association that asked; others have reported by now elsewhere."""
        for _ in range(round(self._settings.commitment.linger_s / _POLL_S)):
            if listener.answered.wait(_POLL_S) or not assoc.is_established:
                return
            if not listener.heard and not self._store.asked_in(uid):
                return

    def _application_entity(self) -> AE:
        ae = AE(ae_title=self._asker.ae_title)
        ae.implementation_class_uid = self._asker.implementation_class_uid
        return ae


class _Listener:
    """Takes a report on the association that asked."""

    def __init__(self, ledger: Ledger, ae_title: str) -> None:
        self._ledger, self._ae_title = ledger, ae_title
        self.heard = False
        """A report is being taken, or was."""
        self.answered = threading.Event()
        """Our answer to the report is on its way: a release can no longer cut it off."""

    @property
    def handlers(self) -> list[tuple[Any, Any]]:
        """What an association is to be opened with."""
        return [(evt.EVT_N_EVENT_REPORT, self._on_report), (evt.EVT_PDU_SENT, self._on_sent)]

    def _on_report(self, event: Any) -> tuple[int, None]:
        # Before it is taken: whoever finds nothing left to wait for does not release yet.
        self.heard = True
        status = self._take(event)
        self.heard = status == CommitmentStatus.SUCCESS
        return status, None

    def _take(self, event: Any) -> CommitmentStatus:
        try:
            self._ledger.hear(event, self._ae_title)
        except (InputError, UnknownKeyError):
            return CommitmentStatus.INVALID_ARGUMENT
        except StoreUnavailableError:
            return CommitmentStatus.RESOURCE_LIMITATION
        return CommitmentStatus.SUCCESS

    def _on_sent(self, event: Any) -> None:
        if self.heard and isinstance(event.pdu, P_DATA_TF):
            self.answered.set()


def _looks(missed: Delivery) -> int:
    """So often in a row it was looked for and not found, now too.

    Its reason has how often before. One that nobody answered has another: the count begins anew,
    as a destination that was away may come back before its index does.
    """
    before = _WAS_MISSED.fullmatch(missed.reason)
    return 1 + (int(before[1]) if before else 0)


def _not_asked(why: str) -> str:
    return f"commitment not asked: {why}"


def _send(assoc: Any, uid: str, parcels: Sequence[Parcel]) -> str:
    """The request was taken, or why not."""
    try:
        answer, _ = assoc.send_n_action(
            _action(uid, parcels), _REQUEST, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
    except ValueError:
        return "it does not offer storage commitment"
    except RuntimeError:
        return _NO_ANSWER
    if "Status" not in answer:
        return _NO_ANSWER
    return "" if answer.Status == CommitmentStatus.SUCCESS else f"refused ({answer.Status:04X})"


def _action(uid: str, parcels: Sequence[Parcel]) -> Dataset:
    """Action Information (PS3.4 table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = uid
    ds.ReferencedSOPSequence = [_reference(parcel) for parcel in parcels]
    return ds


def _reference(parcel: Parcel) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = parcel.result.sop_class_uid
    item.ReferencedSOPInstanceUID = parcel.result.sop_instance_uid
    return item
