"""`vald-node destinations`: how each is doing, what waits for it; hold and release it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dicom_node import node
from dicom_node.config import Destination, DicomWeb
from dicom_node.errors import NodeError
from storage.jobs import DestinationHealth
from storage.states import DeliveryState

_WAITING = {DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.HELD}
_LOST = {DeliveryState.REFUSED, DeliveryState.QUARANTINED, DeliveryState.EXPIRED}


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationLine:
    """One destination: AE title or URL as `place`, and how many results stand there in which way.

    `state` is well, in trouble, resting or held.
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


def lines(path: Path, environ: Mapping[str, str]) -> list[DestinationLine]:
    """Every destination of the configuration, in its order."""
    settings = node.read_config(path, environ)
    store = node.open_store(settings)
    try:
        counts = {(c.destination, c.state): c.number for c in store.delivery_counts()}
        return [
            _line(name, _place(place), store.destination(name), counts)
            for name, place in settings.everywhere.items()
        ]
    finally:
        store.close()


def hold(path: Path, environ: Mapping[str, str], name: str, *, held: bool) -> None:
    """Nothing more is sent there, or all that waits is due now.

    Raises:
        NodeError: there is no destination of that name.
    """
    settings = node.read_config(path, environ)
    if name not in settings.everywhere:
        known = ", ".join(settings.everywhere)
        raise NodeError(f"there is no destination {name}; there are: {known}")
    store = node.open_store(settings)
    try:
        if held:
            store.hold(name, node.now())
        else:
            store.release_destination(name, node.now())
    finally:
        store.close()


def print_table(found: Sequence[DestinationLine]) -> None:
    """The list as a table."""
    table = Table(box=None, pad_edge=False)
    for title in ("name", "place", "state", "waiting", "delivered", "committed", "refused"):
        table.add_column(title, no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for line in found:
        numbers = (line.waiting, line.delivered, line.committed, line.refused)
        table.add_row(line.name, line.place, line.state, *map(str, numbers), line.reason)
    Console().print(table)


def _line(
    name: str,
    place: str,
    health: DestinationHealth,
    counts: Mapping[tuple[str, DeliveryState], int],
) -> DestinationLine:
    def number(*states: DeliveryState) -> int:
        return sum(counts.get((name, state), 0) for state in states)

    return DestinationLine(
        name=name,
        place=place,
        state=_state(health),
        waiting=number(*_WAITING),
        delivered=number(DeliveryState.DELIVERED),
        committed=number(DeliveryState.COMMITTED),
        refused=number(*_LOST),
        failures=health.failures,
        retry_at=health.retry_at,
        reason=health.reason,
    )


def _place(place: Destination | DicomWeb) -> str:
    return place.url if isinstance(place, DicomWeb) else place.ae_title


def _state(health: DestinationHealth) -> str:
    if health.held:
        return "held"
    if health.retry_at is not None:
        return "resting"
    return "in trouble" if health.failures else "well"
