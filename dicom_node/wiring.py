"""The wiring: each part of the node, built from the configuration. Alone names concrete stores."""

import random
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node import config, identity, processes, uids
from dicom_node.commitment import Ledger
from dicom_node.config import NodeConfig
from dicom_node.errors import ConfigError, NodeError
from dicom_node.intake.intake import Intake
from dicom_node.intake.pressure import Pressure
from storage import objects
from storage.engine import is_new
from storage.objects import ObjectStore
from storage.sql import SqlJobStore
from storage.store import JobStore

if TYPE_CHECKING:  # each process imports at its start only what it runs
    from dicom_node.delivery.commitment import Commitment
    from dicom_node.delivery.delivery import Delivery
    from dicom_node.delivery.gateway import Gateway
    from dicom_node.routing.router import Analysis, Router
    from dicom_node.work.reconcile import Reconciler

_OBJECTS, _OWN = "objects", "own mark"
"""The notices that hold the mark of the place where objects are, and the one that this database
gives: who does may be ended before, or after, the first is there. They differ in a database of a
version that noted the mark of whatever place it met."""
_NOT_YET = "(a mark that `vald-node serve` names)"
"""That of a database which has given none; no place has it."""


def read_config(path: Path, environ: Mapping[str, str]) -> NodeConfig:
    """The configuration. Raises ConfigError."""
    return config.load(path, environ)


def demand_port(settings: NodeConfig) -> str:
    """Where senders reach the node, in words.

    Raises:
        ConfigError: at a port that changes: what an earlier node had in hand is known by it.
    """
    if not settings.node.port:
        raise ConfigError("node.port: 0 is any port: say which one senders are to be told")
    return f"{settings.node.ae_title} at {settings.node.host}, port {settings.node.port}"


def open_store(settings: NodeConfig) -> JobStore:
    """The job store, which must have been migrated."""
    return SqlJobStore(settings.storage.database)


def open_kept_store(settings: NodeConfig) -> JobStore:
    """The job store, for a command that looks at what a node has done.

    Raises:
        NodeError: the node was never started; to open its database would make an empty one.
        StorageError: the database is away, or not of this schema.
    """
    if is_new(settings.storage.database):
        raise NodeError(
            f"there is no database at {settings.storage.database}: `vald-node serve` was never "
            "started with this configuration, and nothing was received"
        )
    return open_store(settings)


def open_objects(settings: NodeConfig, store: JobStore) -> ObjectStore:
    """The object store that the database knows; the first that is opened with it becomes that.

    While its volume is away another folder may have its name, also when we start.

    Raises:
        StoreMismatchError: it would be the first, or first by our own mark, and is another
            database's.
        ObjectsUnavailableError: it would be that, and is away.
    """
    given, known = store.notice(_OWN), store.notice(_OBJECTS)
    own = given.text if given else store.post_once(_OWN, uuid.uuid4().hex, now())
    kept = objects.open_store(settings.storage.objects, known.text if known else own)
    if known is None:
        objects.take(kept, is_new=not store.received(1))
    elif known.text != own:
        objects.take_over(kept, own)
    if known is None or known.text != own:
        store.post(_OBJECTS, own, now())
    return kept


def demand_own_objects(settings: NodeConfig, store: JobStore | None) -> None:
    """Return if a node could use its objects; nothing is changed. None is a database to be made.

    Raises:
        StoreMismatchError: they are another database's.
        StorageError: they cannot be looked at now; or see `objects.demand_ours`.
    """
    known, own = (store.notice(_OBJECTS), store.notice(_OWN)) if store else (None, None)
    mark = known or own
    kept = objects.open_store(settings.storage.objects, mark.text if mark else _NOT_YET)
    if known is None:
        objects.demand_free(kept, is_new=store is None or not store.received(1))
    elif own is None or kept.found() != own.text:  # which a start may have left before it noted it
        objects.demand_ours(kept)


def reconciler(settings: NodeConfig, store: JobStore) -> "Reconciler":
    """Who compares what was received with what has arrived."""
    from dicom_node.work.reconcile import Reconciler

    return Reconciler(
        store=store,
        objects=open_objects(settings, store),
        promising=settings.promising,
        known=frozenset(settings.everywhere),
    )


def now() -> datetime:
    """This moment, aware and UTC."""
    return datetime.now(UTC)


def analysis(settings: NodeConfig, model_digest: str) -> "Analysis":
    """How films are analysed from now on."""
    from dicom_node.routing.router import Analysis

    return Analysis(
        model_digest=model_digest,
        calibration_digest="",  # the calibration is in the model folder, and so in its digest
        mode=settings.model.mode,
        seed=settings.model.seed,
    )


def router(
    settings: NodeConfig, store: JobStore, kept: ObjectStore, analysis: "Analysis"
) -> "Router":
    """Who decides what is done with each film."""
    from dicom_node.routing.router import Router
    from dicom_node.work import addressing

    return Router(
        store=store,
        objects=kept,
        rules=settings.rules,
        analysis=analysis,
        called_ae_title=settings.node.ae_title,
        clock=now,
        telling=addressing.telling(settings.rules, settings.overrides),
        overrides=settings.overrides,
    )


def delivery(
    settings: NodeConfig, store: JobStore, kept: ObjectStore, stop: threading.Event
) -> "Delivery":
    """Who sends results; once `stop` is set it begins no more."""
    from dicom_node.delivery.delivery import Delivery

    return Delivery(
        store=store,
        objects=kept,
        gateway=_gateway(settings),
        destinations=settings.everywhere,
        settings=settings.delivery,
        owner=processes.owner(settings.node.port, "dispatcher"),
        stop=stop,
    )


def intake(settings: NodeConfig, store: JobStore, kept: ObjectStore) -> Intake:
    """What becomes of a film that is being received."""
    pressure = Pressure(
        store=store, objects=kept, limits=settings.node.limits, clock_s=time.monotonic
    )
    return Intake(store, kept, now, pressure)


def ledger(settings: NodeConfig, store: JobStore) -> Ledger:
    """Where reports of storage commitment are entered."""
    return Ledger(
        store=store,
        destinations=settings.destinations,
        retry=settings.delivery.retry,
        clock=now,
    )


def commitment(
    settings: NodeConfig, store: JobStore, kept: ObjectStore, stop: threading.Event | None = None
) -> "Commitment":
    """Who asks destinations whether they keep what they took, until told to stop."""
    from dicom_node.delivery.commitment import Asker, Commitment

    return Commitment(
        store=store,
        objects=kept,
        ledger=ledger(settings, store),
        asker=Asker(
            ae_title=settings.node.ae_title,
            implementation_class_uid=identity.IMPLEMENTATION_CLASS_UID,
        ),
        gateway=_gateway(settings),
        destinations=settings.everywhere,
        settings=settings.delivery,
        new_uid=uids.random_uid,
        chance=random.random,
        stop=stop,
    )


def _gateway(settings: NodeConfig) -> "Gateway":
    from dicom_node.delivery.dicomweb import WebSender
    from dicom_node.delivery.gateway import open_gateway
    from dicom_node.delivery.scu import Scu

    timeouts = settings.delivery.timeouts
    scu = Scu(
        ae_title=settings.node.ae_title,
        implementation_class_uid=identity.IMPLEMENTATION_CLASS_UID,
        timeouts=timeouts,
    )
    return open_gateway(scu, WebSender(timeouts))
