"""What is stored: received instances, jobs, results and deliveries. All times are UTC."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from storage.states import DeliveryState, JobState
from storage.words import OWED


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """A kept object: its name in the object store, SHA-256 of its bytes, and size."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReceived:
    """An instance that was kept and is to be recorded."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    address: str
    received_at: datetime
    object: ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(NewReceived):
    """A recorded instance. `decision` is empty until the router has decided.

    `received_at` is when it came for the first time, `arrived_at` for the last.
    """

    number: int
    arrived_at: datetime
    decision: str
    job_key: str


def arrival(at: datetime, last: datetime) -> datetime:
    """When a film came that came at `last` before: each time has a moment of its own."""
    return at + timedelta.resolution if at == last else at


def came(film: Received) -> tuple[datetime, int]:
    """Which came after which; of one moment, the one that was recorded later."""
    return film.arrived_at, film.number


def come_again(films: Iterable[Received], now: datetime) -> Iterator[Received]:
    """As if they came now, undecided: in the order in which they came, since the last one holds."""
    for film in sorted(films, key=came):
        now = arrival(now, film.arrived_at)
        yield replace(film, decision="", arrived_at=now)
        now += timedelta.resolution


def not_held_back(
    owed: Iterable[Received], overtaken: AbstractSet[int], among: AbstractSet[int] | None
) -> list[Received]:
    """Which come again of all that are owed a decision: of these numbers, and not overtaken.

    A film that does not holds back each of its UID that came before it in other bytes, by whomever.
    Decided about as if it came after that film, it would pass for its correction; and, of one
    sender, its end for that of what was sent later.
    """
    left: dict[str, set[str]] = {}
    again: list[Received] = []
    for film in sorted(owed, key=came, reverse=True):
        later = left.setdefault(film.sop_instance_uid, set())
        may = film.number not in overtaken and (among is None or film.number in among)
        if not may or later - {film.object.digest}:
            later.add(film.object.digest)
        else:
            again.append(film)
    return again


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the router decided about one received instance, in words an operator understands.

    `job_key` is empty where there is no job.
    """

    text: str
    job_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """An analysis to be made. `key` is the digest of everything that decides its outcome.

    `rule`, `results` and `destinations` are those of the film that it is made of; `promised` what
    each destination is to get by the rules of all its films, kinds by destination. It is empty in
    rows of older programs (see storage.promises).
    """

    key: str
    sop_instance_uid: str
    identity_digest: str
    object: ObjectRef
    calling_ae_title: str
    rule: str
    target: str
    model_digest: str
    mode: str
    seed: int
    results: tuple[str, ...]
    destinations: tuple[str, ...]
    supersedes: str
    created_at: datetime
    promised: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who works on a job, until when, and the fencing token that guards its writes."""

    owner: str
    token: int
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(NewJob):
    """A stored analysis. `error` says why it was rejected or failed; empty otherwise."""

    state: JobState
    attempts: int
    error: str
    updated_at: datetime
    lease: Lease | None


REJECTION_NOTE = "rejection_note"
"""The kind of a result that rejects all others of its job."""

EVERY = 1 << 31
"""A limit that no list reaches."""

RECALLED = "its model was recalled"
"""Why what such a note rejects is never sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One result object of a job, made once and kept."""

    job_key: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    object: ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One result on its way to one destination; (sop_instance_uid, destination) names it.

    `status` is what the last attempt was answered: a DIMSE status as 4 hexadecimal digits, "RJ" and
    result, source and diagnostic of a rejected association, or an HTTP status; FILE or STUDY where
    the file, or its study there, was in the way; empty where there was no answer.
    `next_attempt_at` is when a DUE one is sent, a DELIVERED one asked about; of the others, when
    they came into their state. `promised` says whether the destination was to commit it when it
    took it; `asked` counts the requests for commitment since, `transaction_uid` is that of the
    last.
    """

    job_key: str
    sop_instance_uid: str
    destination: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime
    reason: str
    status: str = ""
    transaction_uid: str = ""
    asked: int = 0
    promised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What proves that a result has arrived for good: COMMITTED, or DELIVERED where `delivered`.

    Where commitment was promised when it was delivered, DELIVERED proves nothing at the
    destinations `queried`, where a result is looked for in the study that its kept file names, nor
    at one that is not `known` any more.
    """

    delivered: bool = False
    queried: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()

    def is_of(self, delivery: Delivery) -> bool:
        """Whether this one has arrived for good."""
        place = delivery.destination
        answers = place in self.known and place not in self.queried
        is_end = answers or not delivery.promised
        arrived = self.delivered and delivery.state is DeliveryState.DELIVERED
        return delivery.state is DeliveryState.COMMITTED or (arrived and is_end)


NOT_ITS_OWN = ("RJ", "HTTP 408", "HTTP 425", "HTTP 429", "HTTP 5")
"""How an attempt's status begins where the destination's trouble, not the result, is its reason."""
FOR_PEOPLE = ("HTTP 501", "HTTP 505")
"""Of those, what no waiting mends: the server does not know the request."""


def says_nothing(status: str) -> bool:
    """Whether an attempt came to nothing for the destination's reasons, not the result's."""
    return status == "" or (status.startswith(NOT_ITS_OWN) and status not in FOR_PEOPLE)


A_MOMENT = timedelta(microseconds=1)
"""The least that both databases tell apart."""
CLOCKS_APART = timedelta(minutes=1)
"""At most so far clocks of machines that share a database are taken to be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationHealth:
    """How a destination is doing, as every process sees it.

    `held` by the operator, with a reason. `failures` counts associations in a row that came to
    nothing; while `retry_at` is set the destination rests, and is probed from then on.
    """

    name: str
    held: bool = False
    failures: int = 0
    retry_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryCount:
    """How many deliveries to one destination are in one state."""

    destination: str
    state: DeliveryState
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A question whether results are stored for good: whom it asked, and about which instances."""

    uid: str
    destination: str
    sop_instance_uids: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What the node said of itself under a name, the last time; text is that of its writer."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCount:
    """How many jobs are in one state, and when the oldest of them was made."""

    state: JobState
    number: int
    oldest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A delivery that was claimed, with the result that is to be sent."""

    delivery: Delivery
    result: Result


def is_owed(film: Received, of_its_uid: Callable[[], Iterable[Received]]) -> bool:
    """Whether its decision is no end of the film, nor has its sender had one since, of any bytes.

    Another sender's film is decided about by a rule of its own, which promises this one nothing.
    The films of its UID are asked for where its decision is such.
    """
    if not film.decision.startswith(OWED):
        return False
    return not any(
        other.calling_ae_title == film.calling_ae_title
        and came(other) > came(film)
        and other.decision
        and not other.decision.startswith(OWED)
        for other in of_its_uid()
    )
