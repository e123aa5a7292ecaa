"""`vald-node reconcile`: every film of a time, and where it stands up to committed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dicom_node import wiring
from dicom_node.admin.cells import as_text
from dicom_node.errors import NodeError
from dicom_node.work import reconcile
from dicom_node.work.reconcile import FilmStanding, Standing

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=99_999)  # 273 years, before which no film came


def span(text: str) -> timedelta:
    """A time such as 30m, 24h or 7d.

    Raises:
        NodeError: it is none.
    """
    found = re.fullmatch(r"(\d{1,9})([mhd])", text.strip())
    ago = None if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})
    if ago is None or ago > _LONGEST:
        raise NodeError(
            f"write a time such as 30m, 24h or 7d, of {_LONGEST.days}d at most, not {text!r}"
        )
    return ago


def films(path: Path, environ: Mapping[str, str], since: str) -> list[FilmStanding]:
    """Every film received since so long ago, newest first."""
    settings, ago = wiring.read_config(path, environ), span(since)
    store = wiring.open_kept_store(settings)
    try:
        now = wiring.now()
        return wiring.reconciler(settings, store).since(now - ago, now)
    finally:
        store.close()


def is_well(found: Sequence[FilmStanding]) -> bool:
    """Whether nothing is missing."""
    return all(film.standing is not Standing.MISSING for film in found)


def as_json(found: Sequence[FilmStanding]) -> dict[str, object]:
    """As `--json` prints it: the counts, and every film; times in ISO 8601, UTC."""
    lines = [{**asdict(f), "received_at": f.received_at.isoformat()} for f in found]
    return {"well": is_well(found), "counts": reconcile.counts(found), "films": lines}


def print_report(found: Sequence[FilmStanding]) -> None:
    """The counts, and a line for every film that is not complete."""
    console = Console()
    numbers = (f"{number} {name.replace('_', ' ')}" for name, number in _counted(found))
    console.print(f"{len(found)} films: {', '.join(numbers)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("received (UTC)", "from", "SOP Instance UID", "standing"):
        table.add_column(title, no_wrap=title != "SOP Instance UID")
    table.add_column("why", overflow="fold", ratio=1)
    for film in found:
        if film.standing is not Standing.COMPLETE:
            when = film.received_at.strftime("%m-%d %H:%M:%S")
            cells = (when, film.calling_ae_title, film.sop_instance_uid, film.standing, film.why)
            table.add_row(*map(as_text, cells))
    if table.row_count:
        console.print(table)


def _counted(found: Sequence[FilmStanding]) -> list[tuple[str, int]]:
    return list(reconcile.counts(found).items())
