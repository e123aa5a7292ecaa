"""The processes of a node, started and stopped in order.

`vald-node serve` is the receiver and the parent of the others, each a process of its own:

    receiver    Storage and Verification SCP -> files and rows; no torch
    dispatcher  routes films to jobs, sends results, keeps the clock
    worker      decodes (in a child of its own), explains, encodes
    status      the status page, where the configuration asks for it
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from dicom_node import attributes, config, logs, processes, wiring
from dicom_node.config import NodeConfig
from dicom_node.errors import NodeError
from dicom_node.intake.scp import Scp
from dicom_node.processes import Role, Supervisor
from dicom_node.work import loading
from dicom_node.work.loading import Loads
from pipeline import digest, folder, shortage
from pipeline.errors import ModelError, ShortageError
from storage import migrate, objects
from storage.errors import (
    ObjectsUnavailableError,
    StorageError,
    StoreMismatchError,
    StoreUnavailableError,
)
from storage.objects import ObjectStore
from storage.store import JobStore

if TYPE_CHECKING:  # each process imports at its start only what it runs
    from dicom_node.delivery.commitment import Commitment
    from dicom_node.delivery.delivery import Delivery
    from dicom_node.work.scheduler import Tick
    from pipeline.engine.base import Engine

_log = structlog.get_logger()

_WATCH_S = 0.5
_ROUTE_S, _DELIVER_S, _COMMIT_S, _RECLAIM_S, _SWEEP_S = 0.25, 0.5, 1.0, 5.0, 3600.0
_STALE_PART_S, _CATCH_UP_S = 3600.0, 60.0
_ORPHANS_S = 6 * 3600.0
_CLOCK_S = 600.0
_STORE_AWAY_S = 5.0
_CHILD_GRACE_S = 30.0
_PURGE_AT = "*:17"

_T = TypeVar("_T")


def serve(path: Path, environ: Mapping[str, str]) -> int:
    """Run the node until SIGTERM or SIGINT; the process's exit status.

    A database that is away is waited for: a machine that starts may bring it up after us; memory
    and file handles too. A model that no worker can load ends the node as soon as the first has
    tried.

    Raises:
        ConfigError, ModelError, StorageError: it cannot start, and why.
    """
    settings = config.load(path, environ)
    wiring.demand_port(settings)
    _set_up(settings)
    stop = processes.stop_event()
    # A model that cannot be used is told now, not by a dying worker beside an open port.
    usable = partial(folder.demand_usable, digest.folder_of(settings.model.path))
    model_digest = _when_there(usable, stop)
    opened = _when_there(partial(_migrated, settings), stop)
    if model_digest is None or opened is None:
        return 0
    store, kept = opened
    scp = Scp(
        settings.node,
        wiring.intake(settings, store, kept),
        ledger=wiring.ledger(settings, store),
    )
    loads = Loads()
    supervisor = Supervisor(
        _roles(settings, model_digest, loads),
        partial(_free, settings, store),
        partial(_let_go, settings, store),
    )
    _listen(scp, settings)
    _when_there(partial(_free_earlier, settings, store), stop)
    supervisor.start()
    _log.info("node started", ae_title=settings.node.ae_title, port=scp.port)
    try:
        while not stop.wait(_WATCH_S):
            supervisor.watch()
            loads.demand_none_refused()
    finally:
        _log.info("node stopping")
        scp.stop()
        supervisor.stop(_CHILD_GRACE_S)
        store.close()
    _log.info("node stopped")
    return 0


def _listen(scp: Scp, settings: NodeConfig) -> None:
    try:
        scp.start()
    except OSError as fault:
        where = f"{settings.node.host}:{settings.node.port}"
        raise NodeError(f"node.port: cannot listen at {where}: {fault.strerror}") from fault


def dispatch(settings: NodeConfig, model_digest: str) -> None:
    """The dispatcher's main: route, deliver, reclaim, sweep, until told to stop.

    Films are routed for the model of the node's start, whatever has become of its folder.
    """
    from dicom_node.work.scheduler import Ticker

    _set_up(settings)
    stop = processes.stop_event()
    opened = _when_there(partial(_opened, settings), stop)
    if opened is None:
        return
    store, kept = opened
    if _when_there(partial(_announced, store, model_digest), stop) is None:
        return
    ticker = Ticker(ticks(settings, store, kept, model_digest, stop))
    _warn_at_start(settings, store)
    ticker.start()
    stop.wait()
    ticker.stop()
    store.close()


def ticks(
    settings: NodeConfig,
    store: JobStore,
    kept: ObjectStore,
    model_digest: str,
    stop: threading.Event,
) -> "tuple[Tick, ...]":
    """All that the dispatcher does again and again; once `stop` is set it sends nothing more."""
    from dicom_node.work.scheduler import Tick

    router = wiring.router(settings, store, kept, wiring.analysis(settings, model_digest))
    return (
        Tick(name="route", every_s=_ROUTE_S, run=router.route_waiting),
        *_sending(settings, store, kept, stop),
        *_upkeep(settings, store, kept),
        Tick(
            name="reconcile",
            at=settings.work.reconcile_at,
            run=partial(_reconcile, settings, store),
        ),
        Tick(
            name="reconcile if missed",
            every_s=_CATCH_UP_S,
            run=partial(_catch_up, settings, store),
        ),
    )


def _sending(
    settings: NodeConfig, store: JobStore, kept: ObjectStore, stop: threading.Event
) -> "Iterator[Tick]":
    """A tick each, since one destination that hangs must hold up no other."""
    from dicom_node.work.scheduler import Tick

    delivery = wiring.delivery(settings, store, kept, stop)
    commitment = wiring.commitment(settings, store, kept, stop)
    for name in settings.everywhere:
        yield Tick(name=f"deliver {name}", every_s=_DELIVER_S, run=partial(_serve, delivery, name))
    for name in commitment.names:
        yield Tick(name=f"commit {name}", every_s=_COMMIT_S, run=partial(_ask, commitment, name))


def _upkeep(settings: NodeConfig, store: JobStore, kept: ObjectStore) -> "tuple[Tick, ...]":
    """What the dead and the past leave is free, or gone."""
    from dicom_node.work import clocks
    from dicom_node.work.retention import Purger, sweep_unknown
    from dicom_node.work.scheduler import Tick

    attempts = settings.work.max_attempts
    purger = Purger(
        store=store,
        objects=kept,
        retention=settings.retention,
        queried=settings.queried,
        known=frozenset(settings.everywhere),
    )
    return (
        Tick(name="reclaim", every_s=_RECLAIM_S, run=lambda: store.reclaim(wiring.now(), attempts)),
        Tick(name="sweep", every_s=_SWEEP_S, run=lambda: kept.sweep(_STALE_PART_S)),
        Tick(name="orphans", every_s=_ORPHANS_S, run=lambda: sweep_unknown(store, kept)),
        Tick(name="purge", at=_PURGE_AT, run=lambda: purger.purge(wiring.now())),
        Tick(name="clock", every_s=_CLOCK_S, run=lambda: clocks.warn(store, wiring.now())),
        Tick(
            name="clock set back",
            every_s=_CATCH_UP_S,
            run=lambda: clocks.bring_forward(store, settings.delivery.longest_wait_s, wiring.now()),
        ),
    )


def _warn_at_start(settings: NodeConfig, store: JobStore) -> None:
    """A destination that was renamed or removed with results under way has them for ever."""
    from dicom_node.work import clocks, overview

    try:
        clocks.warn(store, wiring.now())
        waiting = overview.unknown(store, settings.everywhere)
    except StorageError:  # the ticks will say so
        return
    for name, number in waiting.items():
        _log.error("destination is not configured", destination=name, results_waiting=number)


def _reconcile(settings: NodeConfig, store: JobStore) -> None:
    from dicom_node.work.reconcile import log_daily

    log_daily(wiring.reconciler(settings, store), store, wiring.now)


def _catch_up(settings: NodeConfig, store: JobStore) -> None:
    """The daily reconciliation, where the node was not there at its time."""
    from dicom_node.work.reconcile import is_late

    if is_late(store, wiring.now()):
        _reconcile(settings, store)


def show(settings: NodeConfig, model_digest: str) -> None:
    """The status page's main: answer until told to stop."""
    from dicom_node import __version__
    from dicom_node.work import overview
    from dicom_node.work.status_page import About, StatusPage

    _set_up(settings)
    stop = processes.stop_event()
    opened, where = _when_there(partial(_opened, settings), stop), settings.node.status
    if opened is None or where is None:
        return
    store, kept = opened
    page = StatusPage(
        (where.host, where.port),
        About(version=__version__, model=model_digest, ae_title=settings.node.ae_title),
        lambda: overview.look(
            store,
            kept,
            settings.everywhere,
            wiring.now(),
            loading.trouble(store, settings.node.port),
        ),
    )
    page.start()
    _log.info("status page", host=where.host, port=page.port)
    stop.wait()
    page.stop()
    store.close()


def _serve(delivery: "Delivery", name: str) -> int:
    return delivery.serve(name, wiring.now())


def _ask(commitment: "Commitment", name: str) -> int:
    return commitment.serve(name, wiring.now())


def work(settings: NodeConfig, loads: Loads) -> None:
    """A worker's main: claim and conclude jobs until told to stop."""
    from dicom_node.decoder import Decoder
    from dicom_node.results import inspection
    from dicom_node.results.inspection import Inspector
    from dicom_node.work.worker import Worker, WorkerSettings

    _set_up(settings)
    processes.leave_interrupts_to_parent()
    engine = _engine(settings, loads)  # told to stop meanwhile, it ends at once: it holds nothing
    stop = processes.stop_event()
    opened = _when_there(partial(_opened, settings), stop)
    if opened is None:
        return
    store, kept = opened
    _note_load(settings, store, "")
    reader = Decoder(
        timeout_s=settings.work.decode_timeout_s,
        memory_bytes=settings.work.decode_memory_mb << 20,
    )
    _log.info("worker ready", model=engine.model_digest[:12])
    Worker(
        store=store,
        objects=kept,
        engine=engine,
        reader=reader,
        settings=WorkerSettings(
            owner=processes.owner(settings.node.port, "worker"),
            lease_s=settings.work.lease_s,
            max_attempts=settings.work.max_attempts,
            limit_s=settings.work.limit_s,
            labels=settings.series,
            overrides=settings.overrides,
            compressions={n: d.compression for n, d in settings.everywhere.items()},
            waived={rule.name: rule.waive for rule in settings.rules},
        ),
        clock=wiring.now,
        inspector=Inspector(inspection.installed()),
    ).run(stop)
    reader.close()
    store.close()


def _engine(settings: NodeConfig, loads: Loads) -> "Engine":
    """The model, loaded; where it cannot be, the reason is told and this process ends.

    It is started again after a pause, and so tries again: a folder can be mended under a running
    node, which keeps films meanwhile.
    """
    try:
        with shortage.told("the model was not loaded"):
            chosen = digest.folder_of(settings.model.path)
            folder.demand_usable(chosen)  # told before seconds of imports, again and again
            from pipeline.engine.local import LocalEngine

            engine = LocalEngine(chosen, settings.model.device)
    except (ModelError, ShortageError) as fault:
        _log.error("model not loaded", reason=str(fault))  # no traceback: it is no fault of ours
        if isinstance(fault, ModelError):  # what was wanting may be there later
            loads.refuse(str(fault))
        _tell_trouble(settings, str(fault))
        sys.exit(1)
    loads.loaded()
    return engine


def _tell_trouble(settings: NodeConfig, reason: str) -> None:
    """Who looks at the node is told why it explains no film, where the database is there."""
    try:
        store = wiring.open_store(settings)
    except (StorageError, OSError, MemoryError):  # what the model lacked, the database may lack too
        return
    _note_load(settings, store, reason)
    store.close()


def _note_load(settings: NodeConfig, store: JobStore, reason: str) -> None:
    try:
        loading.note(store, settings.node.port, reason, wiring.now())
    except StorageError as fault:
        _log.warning("load of the model not noted", error=str(fault))


def _set_up(settings: NodeConfig) -> None:
    """The log is as the configuration says."""
    logs.configure(settings.logging.level, settings.logging.format)
    attributes.keep_warnings_quiet()


def _roles(settings: NodeConfig, model_digest: str, loads: Loads) -> tuple[Role, ...]:
    """Each with the configuration that the node was started with, whatever the file says later."""
    known = (settings, model_digest)
    workers = [f"worker-{n}" for n in range(1, settings.work.workers + 1)]
    return (
        Role(name="dispatcher", main=dispatch, arguments=known),
        *(Role(name=name, main=work, arguments=(settings, loads)) for name in workers),
        *([Role(name="status", main=show, arguments=known)] if settings.node.status else []),
    )


def _free(settings: NodeConfig, store: JobStore, pid: int) -> None:
    """What a dead child of ours had claimed is free at once, not when its lease ends."""
    try:
        dead = processes.owner_of(settings.node.port, pid)
        store.reclaim(wiring.now(), settings.work.max_attempts, dead)
    except StorageError as fault:  # then its leases run out
        _log.warning("leases not freed", error=str(fault))


def _let_go(settings: NodeConfig, store: JobStore, pid: int) -> None:
    """What a child that we killed had claimed is free, and that is nothing's fault."""
    try:
        store.abandon(processes.owner_of(settings.node.port, pid), wiring.now())
    except StorageError as fault:  # the next start frees it, and takes it for a death
        _log.warning("leases not freed", error=str(fault))


def _migrated(settings: NodeConfig) -> tuple[JobStore, ObjectStore]:
    """Rows, whose schema is this version's, and objects.

    Raises:
        StoreMismatchError: the objects are another database's.
    """
    migrate.up(settings.storage.database)
    store, kept = _opened(settings)
    try:
        objects.demand_ours(kept)
        kept.free_bytes()  # which looks where its links lead, too
    except StoreMismatchError:
        raise
    except StorageError as fault:  # films are told to come again until it is back
        _log.error("objects unavailable", error=str(fault))
    return store, kept


def _free_earlier(settings: NodeConfig, store: JobStore) -> None:
    """What an earlier node on our port had claimed is free, as after the deaths of its processes.

    A film that has the system end the whole node must come to an end, too.
    """
    dead = processes.owners(settings.node.port)
    store.reclaim(wiring.now(), settings.work.max_attempts, dead)


def _opened(settings: NodeConfig) -> tuple[JobStore, ObjectStore]:
    """Rows and objects."""
    store = wiring.open_store(settings)
    return store, wiring.open_objects(settings, store)


def _announced(store: JobStore, model_digest: str) -> bool:
    """Workers know which model films are routed for."""
    from dicom_node.work import model

    model.announce(store, model_digest, wiring.now())
    return True


def _when_there(step: Callable[[], _T], stop: threading.Event) -> _T | None:
    """What the step returns, tried until all that it needs is there; None if told to stop."""
    while not stop.is_set():
        try:
            return step()
        except (StoreUnavailableError, ObjectsUnavailableError) as fault:
            _log.warning("storage unavailable", error=str(fault))
        except ShortageError as fault:
            _log.warning("not started yet", reason=str(fault))
        stop.wait(_STORE_AWAY_S)
    return None
