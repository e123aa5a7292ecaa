"""A worker with a job, and engines, readers and stores that do what tests of it need."""

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom

from dicom_node import radiograph
from dicom_node.config import SeriesLabels
from dicom_node.radiograph import Film
from dicom_node.results.inspection import Inspector
from dicom_node.work.making import FilmReader
from dicom_node.work.worker import Turn, Worker, WorkerSettings
from pipeline.engine.base import Engine, Request
from pipeline.errors import UnlikeTrainingError
from pipeline.testing import BrightnessEngine
from pipeline.types import Attribution, Status, Unlike
from storage.errors import StoreUnavailableError
from storage.jobs import Decision, Job, NewJob, Result
from storage.memory import MemoryJobStore
from storage.objects import MemoryObjectStore
from tests.results import sources
from tests.storage.samples import NOON, after, film, new_job


class InProcess:
    """The reader without its child process."""

    def read(self, path: Path) -> Film:
        return radiograph.read(path)


@dataclass
class Faulty:
    """A reader whose every read ends so; `first` happens before."""

    fault: Exception
    first: Callable[[], object] = field(default=lambda: None)

    def read(self, path: Path) -> Film:  # noqa: ARG002 - whatever the file
        self.first()
        raise self.fault


class FaultyEngine(BrightnessEngine):
    """An engine that cannot."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self._fault = fault

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:  # noqa: ARG002
        raise self._fault


class Strict(BrightnessEngine):
    """An engine that takes every picture for something else than a chest."""

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        if requests[0].unlike is Unlike.REFUSE:
            raise UnlikeTrainingError("it is not a chest")
        return [
            replace(made, status=Status.WITHHELD, reasons=("it is not a chest",))
            for made in super().explain(requests)
        ]


class Distorting(BrightnessEngine):
    """An engine one of whose maps has one value that cannot be."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__()
        self._name, self._value = name, value

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        (made,) = super().explain(requests)
        getattr(made, self._name).flat[0] = self._value
        return [made]


class OtherEngine(BrightnessEngine):
    """An engine with another model."""

    model_digest = "e" * 64


class Meanwhile(BrightnessEngine):
    """An engine during whose work something else happens."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens

    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        self._happens()
        return super().explain(requests)


class HeardStore(MemoryJobStore):
    """A store that tells of each heartbeat that it has kept, after being away for some."""

    def __init__(self, away: int = 0) -> None:
        super().__init__()
        self.kept = threading.Semaphore(0)
        self._away = away

    def heartbeat(self, key: str, token: int, until: datetime) -> None:
        if self._away:
            self._away -= 1
            raise StoreUnavailableError("the database is locked")
        super().heartbeat(key, token, until)
        self.kept.release()


class AwayStore(MemoryJobStore):
    """A store that is away when a job is to end, so many times."""

    away: int = 3

    def produce(self, *args: Any, **kwargs: Any) -> None:
        self._be_away()
        super().produce(*args, **kwargs)

    def reject(self, *args: Any, **kwargs: Any) -> None:
        self._be_away()
        super().reject(*args, **kwargs)

    def fail(self, *args: Any, **kwargs: Any) -> None:
        self._be_away()
        super().fail(*args, **kwargs)

    def _be_away(self) -> None:
        self.away -= 1
        if self.away >= 0:
            raise StoreUnavailableError("the database is away")


class FalteringStore(MemoryJobStore):
    """A store that is away once when it is asked for the results of this job."""

    falters_at: str = ""

    def results(self, key: str) -> list[Result]:
        if key == self.falters_at:
            self.falters_at = ""
            raise StoreUnavailableError("the database is away")
        return super().results(key)


@dataclass
class Bench:
    """A worker with one job waiting, and what it works on."""

    folder: Path
    store: MemoryJobStore = field(default_factory=MemoryJobStore)
    engine: Engine = field(default_factory=BrightnessEngine)
    reader: FilmReader = field(default_factory=InProcess)
    capacity_bytes: int = 1 << 30
    lease_s: float = 60.0
    now: datetime = NOON
    labels: SeriesLabels = field(default_factory=SeriesLabels)
    overrides: dict[str, tuple[str, ...]] = field(default_factory=dict)
    compressions: dict[str, str] = field(default_factory=dict)
    validator: Path | None = None
    waived: dict[str, tuple[str, ...]] = field(default_factory=dict)
    source: pydicom.Dataset = field(default_factory=sources.source)

    def __post_init__(self) -> None:
        source = sources.write(self.source, self.folder / "source.dcm").read_bytes()
        self.source_bytes = len(source)
        self.objects = MemoryObjectStore(self.folder, self.source_bytes + self.capacity_bytes)
        self.add(replace(new_job(), object=self.objects.keep("received/a.dcm", source)))

    def add(self, job: NewJob) -> None:
        number = self.store.receive(film(job.sop_instance_uid)).number
        self.store.route(number, Decision(text="analysed", job_key=job.key), job)

    def worker(self) -> Worker:
        return Worker(
            store=self.store,
            objects=self.objects,
            engine=self.engine,
            reader=self.reader,
            settings=WorkerSettings(
                owner="worker",
                lease_s=self.lease_s,
                again_s=0.01,
                labels=self.labels,
                overrides=self.overrides,
                compressions=self.compressions,
                waived=self.waived,
            ),
            clock=lambda: self.now,
            inspector=Inspector(self.validator),
        )

    def kinds_at(self, destination: str) -> list[str]:
        kinds = {made.sop_instance_uid: made.kind for made in self.store.results("k1")}
        found = [d for d in self.store.deliveries("k1") if d.destination == destination]
        return [kinds[delivery.sop_instance_uid] for delivery in found]

    def kept(self, kind: str, key: str = "k1") -> pydicom.Dataset:
        (made,) = [made for made in self.store.results(key) if made.kind == kind]
        return pydicom.dcmread(io.BytesIO(self.objects.read(made.object)))

    def job_to_be(self, key: str, created_s: float) -> NewJob:
        """Another analysis of the same film."""
        return replace(new_job(key, created_s), object=self.job.object)

    def turn(self) -> Turn:
        return self.worker().work_once()

    @property
    def job(self) -> Job:
        return self.store.job("k1")

    def lose_the_lease(self) -> None:
        """The lease runs out and another worker has the job."""
        self.store.reclaim(after(self.lease_s + 1), max_attempts=3)
        assert self.store.claim("other", after(self.lease_s + 2), self.lease_s)
