"""What is due is sent, and what became of it recorded."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from dicom_node import backoff
from dicom_node.config import DeliverySettings
from dicom_node.delivery import study
from dicom_node.delivery.breaker import Breaker
from dicom_node.delivery.gateway import Anywhere, Gateway
from dicom_node.delivery.outcome import Beginning, Fate, Outcome, unforeseen
from storage import faults
from storage.errors import ObjectMissingError, ObjectsUnavailableError, StorageError
from storage.faults import Point
from storage.jobs import Parcel, Result
from storage.objects import ObjectStore
from storage.promises import LOST
from storage.store import JobStore

_log = structlog.get_logger()

_BATCH_S = 60.0
"""No result of a batch is begun later than this: a destination is looked at anew now and then."""

_RENEWED_AFTER_S = 5.0
"""So long a batch may be in the hands of another before we see it: each time is a write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A parcel and what became of it."""

    parcel: Parcel
    outcome: Outcome


class Delivery:
    """Sends due results to every destination. It holds no state: a crash loses nothing.

    A claim ends with its lease, so results that were in hand when the process died are due again
    by `JobStore.reclaim`.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        gateway: Gateway,
        destinations: Mapping[str, Anywhere],
        settings: DeliverySettings,
        owner: str,
        stop: threading.Event | None = None,
        chance: Callable[[], float] = random.random,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Once `stop` is set no result is begun more: what was claimed is due again at once."""
        self._store, self._objects, self._gateway = store, objects, gateway
        self._destinations, self._settings = dict(destinations), settings
        self._owner, self._chance, self._clock_s = owner, chance, clock_s
        self._stop = stop or threading.Event()
        self._breaker = Breaker(store=store, probe=gateway.probe, settings=settings, chance=chance)

    def tick(self, now: datetime) -> int:
        """Every result that is due was sent once, or has a later time; returns how many arrived.

        Raises:
            StorageError: the store is away; what was not recorded is due again after its lease.
        """
        if not self._destinations:
            return 0
        with ThreadPoolExecutor(len(self._destinations), "delivery") as pool:
            return sum(pool.map(partial(self.serve, now=now), self._destinations))

    @property
    def lease_s(self) -> float:
        """A result, its file or its study takes less than what is left of it when it is renewed."""
        wait = self._settings.timeouts
        one = wait.connect_s + 2 * wait.association_s + 3 * wait.response_s
        return 2 * one + _BATCH_S

    def serve(self, name: str, now: datetime) -> int:
        """One destination: batch after batch, until nothing is due or it is in trouble.

        Each destination has a tick of its own: one that does not answer delays no other.
        """
        began = self._clock_s()

        def moment() -> datetime:  # sending takes time: leases and delays begin when they begin
            return now + timedelta(seconds=self._clock_s() - began)

        self._expire(name, now)
        arrived = 0
        if not self._breaker.lets(name, self._destinations[name], now):
            return arrived
        while parcels := self._claim(name, claimed_at := moment()):
            faults.reach(Point.SENDING)
            hold = _Hold(self._store, parcels, claimed_at, timedelta(seconds=self.lease_s))
            sent = self._send(name, parcels, partial(self._goes_on, hold, moment))
            faults.reach(Point.SENT)
            for one in sent:
                self._record(one, moment())
                faults.reach(Point.ACKNOWLEDGED)
            self._breaker.note(name, [one.outcome for one in sent], moment())
            fates = [one.outcome.fate for one in sent]
            arrived += fates.count(Fate.DELIVERED)
            if not set(fates) <= {Fate.DELIVERED, Fate.REFUSED}:
                break
        return arrived

    def _claim(self, name: str, now: datetime) -> list[Parcel]:
        if self._stop.is_set():
            return []
        batch = self._settings.batch
        return self._store.claim_deliveries(name, self._owner, now, self.lease_s, batch)

    def _expire(self, name: str, now: datetime) -> None:
        """What would come too late to be of use is not sent."""
        limit_s = self._settings.expire_after_s
        if limit_s is None:
            return
        reason = f"too late: not delivered within {limit_s:g} s of its film"
        expired = self._store.expire(name, now - timedelta(seconds=limit_s), now, reason)
        if expired:
            _log.warning("results expired", destination=name, results=expired)

    def _goes_on(self, hold: "_Hold", moment: Callable[[], datetime]) -> bool:
        """Whether the batch is in hand yet: before each file is read, and each is sent."""
        return not self._stop.is_set() and hold.lasts(moment)

    def _send(self, name: str, parcels: Sequence[Parcel], beginning: Beginning) -> list[_Sent]:
        paths = self._paths(parcels, beginning)
        there = [path for path in paths if isinstance(path, Path)]
        outcomes = iter(self._send_files(self._destinations[name], there, beginning))
        return [
            _Sent(parcel=parcel, outcome=path if isinstance(path, Outcome) else next(outcomes))
            for parcel, path in zip(parcels, paths, strict=True)
        ]

    def _send_files(
        self, destination: Anywhere, files: Sequence[Path], beginning: Beginning
    ) -> list[Outcome]:
        """What became of each, in their order.

        What nobody foresaw is a reason too: raised, it would leave them SENDING, and nobody the
        wiser, again and again.
        """
        try:
            return self._hand_over(destination, files, beginning)
        except StorageError:
            raise
        except Exception as fault:  # noqa: BLE001 - as at the worker's loop: the rows must say it
            _log.exception("sending failed")
            return [unforeseen(fault)] * len(files)

    def _hand_over(
        self, destination: Anywhere, files: Sequence[Path], beginning: Beginning
    ) -> list[Outcome]:
        if not destination.asks_for_study:
            return self._gateway.send(destination, files, _BATCH_S, beginning)
        kept_back = study.objections(self._gateway, destination, files, _BATCH_S, beginning)
        going = [file for file in files if file not in kept_back]
        outcomes = self._gateway.send(destination, going, _BATCH_S, beginning)
        sent = dict(zip(going, outcomes, strict=True))
        return [sent[file] if file in sent else kept_back[file] for file in files]

    def _paths(self, parcels: Sequence[Parcel], beginning: Beginning) -> list[Path | Outcome]:
        """Of each; a service that is away is asked once: it may be silent for half a minute."""
        paths: list[Path | Outcome] = []
        for parcel in parcels:
            if paths and paths[-1] in (_AWAY, _NOT_BEGUN):
                paths.append(paths[-1])
            else:
                paths.append(self._path(parcel.result) if beginning() else _NOT_BEGUN)
        return paths

    def _path(self, result: Result) -> Path | Outcome:
        """The kept file, or what becomes of a result whose file cannot be had.

        One file's trouble is its own: the others of its batch are sent.
        """
        try:
            return self._objects.whole_path(result.object)
        except ObjectMissingError:
            return _GONE
        except (StorageError, OSError) as fault:
            _log.warning("kept file unreadable", job=result.job_key[:12], error=str(fault))
            return _AWAY if isinstance(fault, ObjectsUnavailableError) else _UNREADABLE

    def _record(self, sent: _Sent, now: datetime) -> None:
        parcel, outcome = sent.parcel, sent.outcome
        if outcome.fate is Fate.DELIVERED:
            promised = self._destinations[parcel.delivery.destination].commitment != "none"
            said = (outcome.reason, outcome.status)
            kept = self._store.delivered(parcel, now, *said, promised=promised)
        elif outcome is _GONE:  # unless a worker has made it again since
            kept = self._store.refuse_lost(parcel, now, outcome.status, self._is_lost)
        elif outcome.fate is Fate.REFUSED:
            kept = self._store.refuse(parcel, now, outcome.reason, outcome.status)
        elif outcome.fate is Fate.UNSENT:
            kept = self._store.give_back(parcel, now, outcome.reason)
        else:
            later = now + timedelta(seconds=self._delay_s(sent))
            kept = self._store.postpone(parcel, later, outcome.reason, outcome.status)
        self._log(sent)
        if not kept:  # its lease had run out: it is sent again, by whoever has it now
            _log.warning("outcome came too late", **_names(parcel))

    def _is_lost(self, result: Result) -> bool:
        return self._path(result) is _GONE

    def _delay_s(self, sent: _Sent) -> float:
        retry = self._settings.retry
        if sent.outcome.fate is Fate.POSTPONED_SLOWLY:
            retry = retry.model_copy(update={"first_delay_s": retry.max_delay_s})
        return backoff.delay_s(sent.parcel.delivery.attempts, retry, self._chance())

    def _log(self, sent: _Sent) -> None:
        outcome = sent.outcome
        emit = _log.info if outcome.fate is Fate.DELIVERED else _log.warning
        emit(
            outcome.fate.name.lower().replace("_", " "),
            **_names(sent.parcel),
            attempts=sent.parcel.delivery.attempts,
            reason=outcome.reason,
        )


class _Hold:
    """A batch in hand. Each renewal is a write, for which a database in trouble lets us wait."""

    def __init__(
        self, store: JobStore, parcels: Sequence[Parcel], claimed_at: datetime, lease: timedelta
    ) -> None:
        self._store, self._parcels, self._lease = store, parcels, lease
        self._renewed_at = self._tried_at = claimed_at
        self._is_ours = True

    def lasts(self, moment: Callable[[], datetime]) -> bool:
        """It is ours for long enough to begin one more.

        False, and for good, where nothing of it is ours any more, since another process has it and
        sends it, and where that cannot be known since the lease is over.
        """
        now = moment()
        if now - self._tried_at >= timedelta(seconds=_RENEWED_AFTER_S):
            self._tried_at = now if self._renew(now) else moment()
        is_over = max(now, self._tried_at) - self._renewed_at >= self._lease
        self._is_ours = self._is_ours and not is_over
        return self._is_ours

    def _renew(self, now: datetime) -> bool:
        """Whether the database says what is ours; it may take its time not to."""
        try:
            left = self._store.renew_deliveries(self._parcels, now + self._lease)
        except StorageError as fault:
            where = self._parcels[0].delivery.destination
            _log.warning("leases not renewed", destination=where, error=str(fault))
            return False
        self._renewed_at, self._is_ours = now, self._is_ours and left > 0
        return True


def _names(parcel: Parcel) -> dict[str, str]:
    delivery = parcel.delivery
    return {
        "destination": delivery.destination,
        "sop_instance_uid": delivery.sop_instance_uid,
        "job": delivery.job_key[:12],
    }


_GONE = Outcome(
    fate=Fate.REFUSED,
    reason=LOST,
    status="FILE",
)
_UNREADABLE = Outcome(fate=Fate.POSTPONED, reason="the kept file cannot be read now", status="FILE")
_NOT_BEGUN = Outcome(fate=Fate.UNSENT, reason="not begun: we were to stop, or another has it")
_AWAY = Outcome(fate=Fate.POSTPONED, reason="the kept files are away", status="FILE")
