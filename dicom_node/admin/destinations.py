"""`vald-node destinations`: how each is doing, what waits for it; hold and release it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dicom_node import wiring
from dicom_node.admin.cells import as_text
from dicom_node.config import NodeConfig
from dicom_node.errors import NodeError
from dicom_node.work import overview
from dicom_node.work.overview import DestinationLine
from storage.states import DeliveryState


def lines(path: Path, environ: Mapping[str, str]) -> list[DestinationLine]:
    """Every destination of the configuration, and those that only results name."""
    settings = wiring.read_config(path, environ)
    store = wiring.open_kept_store(settings)
    try:
        return overview.lines(store, settings.everywhere)
    finally:
        store.close()


def hold(path: Path, environ: Mapping[str, str], name: str, *, held: bool) -> None:
    """Nothing more is sent there, or all that waits is due now.

    Raises:
        NodeError: there is no destination of that name.
    """
    settings = wiring.read_config(path, environ)
    _demand(settings, name)
    store = wiring.open_kept_store(settings)
    try:
        if held:
            store.hold(name, wiring.now())
        else:
            store.release_destination(name, wiring.now())
    finally:
        store.close()


def move(path: Path, environ: Mapping[str, str], old: str, new: str) -> int:
    """What waits at `old`, whether it is still configured or not, goes to `new`; how many results.

    Where it is not, what it took and has yet to commit is asked about at `new`, or sent there where
    nothing is asked.

    Raises:
        NodeError: there is no destination `new`, or it is `old`.
    """
    settings = wiring.read_config(path, environ)
    _demand(settings, new)
    if old == new:
        raise NodeError(f"{old} and {new} are the same destination")
    store = wiring.open_kept_store(settings)
    try:
        promises = settings.everywhere[new].commitment != "none"
        unproven = DeliveryState.DELIVERED if promises else DeliveryState.DUE
        asked = None if old in settings.everywhere else unproven
        return store.move_deliveries(old, new, wiring.now(), asked=asked)
    finally:
        store.close()


def drop(path: Path, environ: Mapping[str, str], name: str) -> int:
    """What waits at a destination that is configured no more is REFUSED; how many results.

    What it took and has yet to commit counts as delivered.

    Raises:
        NodeError: it is configured: results wait there to be sent.
    """
    settings = wiring.read_config(path, environ)
    if name in settings.everywhere:
        raise NodeError(f"{name} is configured: hold it, or remove it from the configuration first")
    store = wiring.open_kept_store(settings)
    try:
        return store.drop_deliveries(name, wiring.now(), "its destination is no more")
    finally:
        store.close()


def _demand(settings: NodeConfig, name: str) -> None:
    if name not in settings.everywhere:
        known = ", ".join(settings.everywhere)
        raise NodeError(f"there is no destination {name}; there are: {known}")


def print_table(found: Sequence[DestinationLine]) -> None:
    """The list as a table."""
    table = Table(box=None, pad_edge=False)
    for title in ("name", "place", "state", "waiting", "delivered", "committed", "refused"):
        table.add_column(title, no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for line in found:
        numbers = (line.waiting, line.delivered, line.committed, line.refused)
        cells = (line.name, line.place, line.state, *numbers, line.reason)
        table.add_row(*map(as_text, cells))
    Console().print(table)
