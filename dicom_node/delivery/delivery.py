"""What is due is sent, and what became of it recorded."""

import random
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
from dicom_node.delivery.outcome import Fate, Outcome
from storage import faults
from storage.errors import ObjectMissingError
from storage.faults import Point
from storage.jobs import Parcel
from storage.objects import ObjectStore
from storage.store import JobStore

_log = structlog.get_logger()

_BATCH_S = 60.0
"""No result of a batch is begun later than this, so that a batch ends within its lease."""


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
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store, self._objects, self._gateway = store, objects, gateway
        self._destinations, self._settings = dict(destinations), settings
        self._owner, self._chance = owner, chance
        self._breaker = Breaker(store=store, probe=gateway.echo, settings=settings, chance=chance)

    def tick(self, now: datetime) -> int:
        """Every result that is due was sent once, or has a later time; returns how many arrived.

        Destinations are served side by side: one that does not answer delays no other.

        Raises:
            StorageError: the store is away; what was not recorded is due again after its lease.
        """
        if not self._destinations:
            return 0
        with ThreadPoolExecutor(len(self._destinations), "delivery") as pool:
            return sum(pool.map(partial(self._serve, now=now), self._destinations))

    @property
    def lease_s(self) -> float:
        """Longer than any batch can take."""
        wait = self._settings.timeouts
        one = wait.connect_s + 2 * wait.association_s + 2 * wait.response_s
        return 2 * one + _BATCH_S  # the study is asked for first, where it is confirmed

    def _serve(self, name: str, now: datetime) -> int:
        """Batch after batch, until nothing is due or the destination is in trouble."""
        self._expire(name, now)
        arrived = 0
        if not self._breaker.lets(name, self._destinations[name], now):
            return arrived
        while parcels := self._store.claim_deliveries(
            name, self._owner, now, self.lease_s, self._settings.batch
        ):
            faults.reach(Point.SENDING)
            sent = self._send(name, parcels)
            faults.reach(Point.SENT)
            for one in sent:
                self._record(one, now)
                faults.reach(Point.ACKNOWLEDGED)
            self._breaker.note(name, [one.outcome for one in sent], now)
            fates = [one.outcome.fate for one in sent]
            arrived += fates.count(Fate.DELIVERED)
            if not set(fates) <= {Fate.DELIVERED, Fate.REFUSED}:
                break
        return arrived

    def _expire(self, name: str, now: datetime) -> None:
        """What would come too late to be of use is not sent."""
        limit_s = self._settings.expire_after_s
        if limit_s is None:
            return
        reason = f"too late: not delivered within {limit_s:g} s of its film"
        expired = self._store.expire(name, now - timedelta(seconds=limit_s), now, reason)
        if expired:
            _log.warning("results expired", destination=name, results=expired)

    def _send(self, name: str, parcels: Sequence[Parcel]) -> list[_Sent]:
        paths = [self._path(parcel) for parcel in parcels]
        there = [(parcel, path) for parcel, path in zip(parcels, paths, strict=True) if path]
        outcomes = self._send_files(self._destinations[name], [path for _, path in there])
        gone = [p for p, path in zip(parcels, paths, strict=True) if path is None]
        return [
            *(_Sent(parcel=p, outcome=o) for (p, _), o in zip(there, outcomes, strict=True)),
            *(_Sent(parcel=p, outcome=_GONE) for p in gone),
        ]

    def _send_files(self, destination: Anywhere, files: Sequence[Path]) -> list[Outcome]:
        """What became of each, in their order."""
        if not destination.confirm_study:
            return self._gateway.send(destination, files, _BATCH_S)
        kept_back = study.objections(self._gateway, destination, files)
        going = [file for file in files if file not in kept_back]
        sent = dict(zip(going, self._gateway.send(destination, going, _BATCH_S), strict=True))
        return [sent[file] if file in sent else kept_back[file] for file in files]

    def _path(self, parcel: Parcel) -> Path | None:
        """The kept file, or None where it is gone or is not what was kept."""
        try:
            self._objects.read(parcel.result.object)
            return self._objects.local_path(parcel.result.object)
        except ObjectMissingError:
            return None

    def _record(self, sent: _Sent, now: datetime) -> None:
        parcel, outcome = sent.parcel, sent.outcome
        if outcome.fate is Fate.DELIVERED:
            self._store.delivered(parcel, now, outcome.reason, outcome.status)
        elif outcome.fate is Fate.REFUSED:
            self._store.refuse(parcel, now, outcome.reason, outcome.status)
        else:
            later = now + timedelta(seconds=self._delay_s(sent))
            self._store.postpone(parcel, later, outcome.reason, outcome.status)
        self._log(sent)

    def _delay_s(self, sent: _Sent) -> float:
        retry, fate = self._settings.retry, sent.outcome.fate
        if fate is Fate.UNSENT:
            return 0.0
        if fate is Fate.POSTPONED_SLOWLY:
            retry = retry.model_copy(update={"first_delay_s": retry.max_delay_s})
        return backoff.delay_s(sent.parcel.delivery.attempts, retry, self._chance())

    def _log(self, sent: _Sent) -> None:
        delivery, outcome = sent.parcel.delivery, sent.outcome
        emit = _log.info if outcome.fate is Fate.DELIVERED else _log.warning
        emit(
            outcome.fate.name.lower().replace("_", " "),
            destination=delivery.destination,
            sop_instance_uid=delivery.sop_instance_uid,
            job=delivery.job_key[:12],
            attempts=delivery.attempts,
            reason=outcome.reason,
        )


_GONE = Outcome(fate=Fate.REFUSED, reason="the kept file is gone or damaged")
