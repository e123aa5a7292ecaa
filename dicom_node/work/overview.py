"""How the node is doing, in numbers: what the status page and `vald-node destinations` show.

No patient data is in it: no UID, no sender, no reason that a peer has worded of a film.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from dicom_node.config import Destination, DicomWeb
from dicom_node.work import reconcile
from dicom_node.work.reconcile import Account
from storage.jobs import DestinationHealth, JobCount
from storage.objects import ObjectStore
from storage.states import LOST, DeliveryState, JobState
from storage.store import JobStore

_WAITING = {DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.HELD}
_OPEN = {JobState.RECEIVED, JobState.RUNNING}
_MB = 1 << 20

Places = Mapping[str, Destination | DicomWeb]


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationLine:
    """One destination: AE title or URL as `place`, and how many results stand there in which way.

    `state` is well, in trouble, resting, held, or unknown where the configuration does not name it
    and results wait for it all the same: to be sent, or for its word that they are stored.
    """

    name: str
    place: str
    state: str
    waiting: int
    delivered: int
    committed: int
    refused: int
    failures: int
    retry_at: datetime | None
    reason: str

    def as_json(self) -> dict[str, object]:
        """As `--json` prints it; times in ISO 8601, UTC."""
        values = asdict(self)
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The node at one moment: films that are `waiting` to be analysed; `free_mb` is the space on
    the fuller disk, of objects and of rows; `model_trouble` why no worker can load the model.
    """

    at: datetime
    waiting: int
    jobs: tuple[JobCount, ...]
    destinations: tuple[DestinationLine, ...]
    free_mb: int
    reconciled: Account | None
    model_trouble: str

    @property
    def oldest_open(self) -> datetime | None:
        """When the oldest job that is not at its end was made."""
        return min((count.oldest for count in self.jobs if count.state in _OPEN), default=None)


def look(
    store: JobStore,
    objects: ObjectStore,
    places: Places,
    now: datetime,
    model_trouble: str = "",
) -> Overview:
    """What there is now. Raises StorageError."""
    return Overview(
        at=now,
        waiting=store.waiting(),
        jobs=tuple(store.job_counts()),
        destinations=tuple(lines(store, places)),
        free_mb=min(objects.free_bytes(), store.free_bytes()) // _MB,
        reconciled=reconcile.account(store),
        model_trouble=model_trouble,
    )


def lines(store: JobStore, places: Places) -> list[DestinationLine]:
    """Every destination of the configuration, in its order, then those that only results name."""
    counts = {(c.destination, c.state): c.number for c in store.delivery_counts()}
    asked = store.asked_counts()
    waited_for = {name for name, state in counts if state in _WAITING} | asked.keys()
    unknown = sorted(waited_for - places.keys())
    return [
        *(
            _line(name, _place(place), store.destination(name), counts)
            for name, place in places.items()
        ),
        *(_unknown(name, counts, asked.get(name, 0)) for name in unknown),
    ]


def unknown(store: JobStore, places: Places) -> dict[str, int]:
    """How many results wait for each destination that the configuration does not name."""
    return {line.name: line.waiting for line in lines(store, places) if line.state == _UNKNOWN}


_UNKNOWN = "unknown"


def _unknown(
    name: str, counts: Mapping[tuple[str, DeliveryState], int], asked: int
) -> DestinationLine:
    health = DestinationHealth(name=name, reason="the configuration does not name it")
    line = _line(name, "", health, counts, _UNKNOWN)
    return replace(line, waiting=line.waiting + asked, delivered=line.delivered - asked)


def _line(
    name: str,
    place: str,
    health: DestinationHealth,
    counts: Mapping[tuple[str, DeliveryState], int],
    state: str = "",
) -> DestinationLine:
    def number(*states: DeliveryState) -> int:
        return sum(counts.get((name, state), 0) for state in states)

    return DestinationLine(
        name=name,
        place=place,
        state=state or _state(health),
        waiting=number(*_WAITING),
        delivered=number(DeliveryState.DELIVERED),
        committed=number(DeliveryState.COMMITTED),
        refused=number(*LOST),
        failures=health.failures,
        retry_at=health.retry_at,
        reason=health.reason,
    )


def _place(place: Destination | DicomWeb) -> str:
    """Its AE title, or its URL without a password."""
    return place.address if isinstance(place, DicomWeb) else place.ae_title


def _state(health: DestinationHealth) -> str:
    if health.held:
        return "held"
    if health.retry_at is not None:
        return "resting"
    return "in trouble" if health.failures else "well"
