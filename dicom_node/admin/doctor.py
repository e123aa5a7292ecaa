"""`vald-node check`: can this configuration be used? Each part is tried; nothing is changed."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from dicom_node import config, identity, wiring
from dicom_node.config import DeliveryTimeouts, Destination, DicomWeb, Model, NodeConfig
from dicom_node.delivery.dicomweb import WebSender
from dicom_node.delivery.scu import Scu
from dicom_node.errors import NodeError
from dicom_node.work import clocks, overview
from pipeline import digest, folder, prompts, settings
from pipeline.errors import PipelineError
from storage import engine, migrate, objects
from storage.errors import StorageError, StoreMismatchError
from storage.store import JobStore

_TIMEOUTS = DeliveryTimeouts(connect_s=5, association_s=5, response_s=5)
_LITTLE_SPACE_BYTES = 5 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried. A warning is told, but the node can start."""

    what: str
    good: bool
    said: str
    fatal: bool = True


def print_report(path: Path, environ: Mapping[str, str]) -> bool:
    """A line a finding; True if the node could start."""
    console = Console()
    try:
        read = config.load(path, environ)
    except NodeError as fault:
        console.print(f"[red]✗[/] configuration  {escape(str(fault))}", highlight=False)
        return False
    findings = list(examine(read))
    for found in findings:
        mark = "[green]✓[/]" if found.good else "[red]✗[/]" if found.fatal else "[yellow]![/]"
        console.print(f"{mark} {found.what:<14} {escape(found.said)}", highlight=False)
    return all(found.good or not found.fatal for found in findings)


def examine(read: NodeConfig) -> Iterator[Finding]:
    """Every part that the configuration names, tried."""
    yield Finding(what="configuration", good=True, said=f"{len(read.rules)} rule(s)")
    yield _tried("port", lambda: wiring.demand_port(read))
    yield from _models(read.model)
    yield _tried("database", lambda: engine.probe(read.storage.database))
    yield _objects(read)
    for name, destination in read.destinations.items():
        yield _echo(name, destination, read.node.ae_title)
    for name, server in read.dicomweb.items():
        yield _ask(name, server)
    yield from _stored(read)


def _stored(read: NodeConfig) -> Iterator[Finding]:
    """What a database that is there already tells."""
    try:
        if engine.is_new(read.storage.database):
            return
        store = wiring.open_store(read)
    except StorageError:  # said above
        return
    try:
        if words := clocks.disagreement(store, wiring.now()):
            yield Finding(what="clock", good=False, said=words, fatal=False)
        yield from _stranded(read, store)
    finally:
        store.close()


def _stranded(read: NodeConfig, store: JobStore) -> Iterator[Finding]:
    """Results that wait for a destination which the configuration does not name."""
    for name, number in overview.unknown(store, read.everywhere).items():
        said = f"{number} results wait for {name}, which is not configured: move or drop them"
        yield Finding(what="destination", good=False, said=said, fatal=False)


def _tried(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, good=True, said=attempt())
    except (NodeError, PipelineError, StorageError, OSError) as fault:
        return Finding(what=what, good=False, said=str(fault))


def _models(wanted: Model) -> Iterator[Finding]:
    found = _tried("model", lambda: _model(wanted))
    yield found
    if found.good and (why := _uncalibrated(wanted)):
        said = f"{why}; every result will be LOW_CONFIDENCE: run vald-node calibrate"
        yield Finding(what="calibration", good=False, said=said, fatal=False)


def _uncalibrated(wanted: Model) -> str:
    from pipeline import calibration  # as the model's, for this part alone

    chosen = digest.folder_of(wanted.path)
    return calibration.doubt(calibration.load(chosen), settings.read(chosen).words)


def _model(wanted: Model) -> str:
    """As a worker would load it, but beside the device: a running node may have all of that."""
    from pipeline import weights  # it takes seconds, for this part alone

    chosen = digest.folder_of(wanted.path)
    found, said = folder.demand_usable(chosen), settings.read(chosen)
    weights.choose_device(wanted.device)
    weights.load(chosen, weights.choose_device("cpu"))
    words = prompts.load().digest
    return f"{said.name} {said.version}, digest {found[:12]} (with prompts {words[:12]})"


def _objects(read: NodeConfig) -> Finding:
    root = read.storage.objects.removeprefix("file://")
    there = _tried("objects", lambda: _service(root)) if "://" in root else _space(root)
    unusable = there.fatal and not there.good
    return there if unusable else _owned(read) or there


def _owned(read: NodeConfig) -> Finding | None:
    """What is to be said of objects that are not those of the database, or are not there."""
    try:
        store = _kept_store(read)
    except StorageError:  # said of the database, or brought up by the start
        return None
    try:
        wiring.demand_own_objects(read, store)
    except StorageError as fault:
        fatal = isinstance(fault, StoreMismatchError)
        return Finding(what="objects", good=False, said=str(fault), fatal=fatal)
    finally:
        if store:
            store.close()
    return None


def _kept_store(read: NodeConfig) -> JobStore | None:
    """The job store; None where the first start will make its tables."""
    if migrate.status(read.storage.database).found:
        return wiring.open_store(read)
    return None


def _service(root: str) -> str:
    objects.open_store(root).free_bytes()
    return f"{root} answers"


def _space(root: str) -> Finding:
    folder = next(p for p in (Path(root), *Path(root).parents) if p.exists())
    free = shutil.disk_usage(folder).free
    said = f"{free / (1 << 30):.0f} GiB free at {root}"
    return Finding(what="objects", good=free > _LITTLE_SPACE_BYTES, said=said, fatal=False)


def _ask(name: str, server: DicomWeb) -> Finding:
    """QIDO-RS for one study."""
    trouble = WebSender(_TIMEOUTS).echo(server)
    where = f"{name} ({server.address})"
    said = f"{where} {'does not answer: ' + trouble if trouble else 'answers QIDO-RS'}"
    return Finding(what="destination", good=not trouble, said=said, fatal=False)


def _echo(name: str, destination: Destination, ae_title: str) -> Finding:
    """C-ECHO; a PACS that is away is no reason not to start: results wait for it."""
    scu = Scu(
        ae_title=ae_title,
        implementation_class_uid=identity.IMPLEMENTATION_CLASS_UID,
        timeouts=_TIMEOUTS,
    )
    where = f"{name} ({destination.ae_title} at {destination.host}:{destination.port})"
    trouble = scu.echo(destination)
    said = f"{where} {'does not answer: ' + trouble if trouble else 'answers C-ECHO'}"
    return Finding(what="destination", good=not trouble, said=said, fatal=False)
