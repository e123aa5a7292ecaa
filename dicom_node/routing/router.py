"""A received film becomes a job, or a kept decision that says why there is none."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import structlog
from pydicom import Dataset

from dicom_node import attributes, uids
from dicom_node.config import Rule
from dicom_node.errors import InputError
from dicom_node.radiograph import read_header, stored_pixels
from dicom_node.routing import guards, rules
from dicom_node.uids import AnalysisInputs
from pipeline import shortage
from storage import faults, promises, states, words
from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    ObjectUnreadableError,
    StorageError,
    StoreUnavailableError,
)
from storage.faults import Point
from storage.jobs import Decision, Job, NewJob, ObjectRef, Received
from storage.objects import ObjectStore
from storage.states import JobState
from storage.store import JobStore

_log = structlog.get_logger()

NORMAL = "normal"
"""The target of every job: the film's normal counterpart."""

REFUSED = "not analysed: "
"""How the decision begins about a film that is not analysed, and why."""

GONE = f"{words.GONE}; send the film again"
"""A decision that is no judgement of the film: it is missing until it is sent again."""

BROKEN = f"{words.OURS}, see the log; once it is mended, `vald-node retry --failed`"
"""How another such decision begins: the header met what nobody foresaw."""

OTHER_PIXELS = "received again with other pixels: the first film is kept"
"""How the decision begins about a film that is not analysed where the first of its UID was."""

_LONGEST_PAUSE = 256  # of calls; four are a second

Routed = tuple[Decision, NewJob | None]
"""A decision, and the job that follows from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """How films are analysed: what of the model decides a job's outcome."""

    model_digest: str
    calibration_digest: str
    mode: str
    seed: int


class Router:
    """Decides about received films, in the order they came."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        rules: Sequence[Rule],
        analysis: Analysis,
        called_ae_title: str,
        clock: Callable[[], datetime],
        telling: Collection[str] = (),
        overrides: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        """`telling` names the rules of whose refused films somebody is sent a note.

        `overrides` are the destinations' own `results:`, which they get instead of the rule's.
        """
        self._store, self._objects, self._telling = store, objects, telling
        self._overrides = overrides
        self._rules, self._analysis = rules, analysis
        self._called_ae_title, self._clock = called_ae_title, clock
        self._waiting: set[int] = set()
        self._pauses = _Pauses()

    def route_waiting(self, limit: int = 100) -> int:
        """Up to `limit` films have a decision, or come again meanwhile; returns how many.

        Those that the machine could not read for now have none, and hold up no other: they are
        looked at again with the next call; one that its service answers wrongly, after more and
        more of them.
        """
        # More by those that could not be read: however many they are, others come behind them.
        films = self._store.unrouted(limit + len(self._waiting))
        self._waiting = {film.number for film in films if not self._route(film)}
        self._pauses.end_others(self._waiting)
        return len(films) - len(self._waiting)

    def _route(self, received: Received) -> bool:
        """Whether the film could be looked at; if so it has a decision, or has come again since."""
        if self._pauses.pass_over(received.number):
            return False
        try:
            decision, job = self._decide_whatever_comes(received)
        except (StoreUnavailableError, ObjectsUnavailableError):
            raise  # no other could be decided about either
        except (OSError, MemoryError, StorageError) as fault:
            if isinstance(fault, ObjectUnreadableError):
                self._pauses.lengthen(received.number)
            if received.number not in self._waiting:  # said once, not with every call
                why = str(fault) or type(fault).__name__
                _log.error("not routed yet", sop_instance_uid=received.sop_instance_uid, error=why)
            return False
        faults.reach(Point.DECIDED)
        if not self._store.route(received.number, decision, job, received.arrived_at):
            return True  # it came again, or its job came to nothing: the next call looks
        faults.reach(Point.ROUTED)
        _log.info(
            "routed",
            sop_instance_uid=received.sop_instance_uid,
            decision=decision.text,
            job=decision.job_key[:12],
        )
        return True

    def _decide_whatever_comes(self, received: Received) -> Routed:
        """`decide`, where a film that breaks it ends as a decision and holds up no other."""
        try:
            return self.decide(received)
        except StorageError:
            raise
        except Exception as fault:
            if attributes.is_the_machines(fault):
                raise
            if wanting := shortage.lacking(fault):  # as said by a library, in a class of its own
                raise OSError(wanting) from fault
            _log.exception("not routed", sop_instance_uid=received.sop_instance_uid)
            name = type(fault).__name__
            return Decision(text=f"{BROKEN} ({name})"), None

    def decide(self, received: Received) -> Routed:
        """What is to be done with one film; reads its header only."""
        try:
            source = read_header(self._objects.local_path(received.object))
        except InputError as fault:
            return Decision(text=f"{REFUSED}{fault}"), None
        except ObjectMissingError:
            return Decision(text=GONE), None
        header = source.dataset
        rule = rules.match(header, received.calling_ae_title, self._called_ae_title, self._rules)
        if rule is None:
            why = rules.explain(
                source, received.calling_ae_title, self._called_ae_title, self._rules
            )
            return Decision(text=f"{REFUSED}{why}"), None
        reason = guards.first_reason(header, waived=rule.waive)
        if not reason:
            return self._new_or_same(received, header, rule)
        text = f"{REFUSED}{reason}, rule {rule.name}"
        if rule.name not in self._telling or not guards.may_be_told_of(header):
            return Decision(text=text), None
        # The worker asks the guards too: this job ends as REJECTED, with the note.
        job = self._job(received, header, rule)
        same = self._same(job)
        if same is not None and not _may_be_refused(same, rule):
            return Decision(text=text), None
        return Decision(text=text, job_key=job.key), job

    def _new_or_same(self, received: Received, header: Dataset, rule: Rule) -> Routed:
        job = self._job(received, header, rule)
        same = self._same(job)
        if same is not None and same.state in states.UNDONE:
            # Of a film that was cut short, is damaged, or which another model was to analyse.
            return Decision(text=f"analysed anew by rule {rule.name}", job_key=job.key), job
        if same is not None:
            return self._again(received, job, same)
        if job.supersedes:
            text = (
                f"analysed by rule {rule.name}: patient or study corrected, earlier job superseded"
            )
            return Decision(text=text, job_key=job.key), job
        return Decision(text=f"analysed by rule {rule.name}", job_key=job.key), job

    def _same(self, job: NewJob) -> Job | None:
        """The job of that key that is there already."""
        known = self._store.jobs(limit=100, sop_instance_uid=job.sop_instance_uid)
        return next((other for other in known if other.key == job.key), None)

    def _again(self, received: Received, job: NewJob, same: Job) -> Routed:
        """The analysis was made, or is under way. Should it come to nothing, this film is freed."""
        if self._other_pixels(received.object, same.object):
            _log.warning("same UID, other pixels", sop_instance_uid=received.sop_instance_uid)
            return Decision(text=f"{OTHER_PIXELS} ({job.rule})", job_key=same.key), None
        text = f"received again: the same analysis ({job.rule})"
        if more := promises.beyond(promises.of(same), promises.of(job)):
            text = f"{text}; now for {', '.join(more)} too"
        return Decision(text=text, job_key=same.key), job

    def _other_pixels(self, one: ObjectRef, other: ObjectRef) -> bool:
        """Whether two objects of one UID differ in their stored pixels, which the standard forbids.

        Objects can be told apart without decoding them where neither is compressed, or both are in
        one transfer syntax.
        """
        if one.digest == other.digest:
            return False
        try:
            stored = [stored_pixels(self._objects.local_path(ref)) for ref in (one, other)]
        except (InputError, ObjectMissingError):
            return False
        (syntax, pixels), (other_syntax, other_pixels) = stored
        return syntax == other_syntax and pixels != other_pixels

    def _job(self, received: Received, header: Dataset, rule: Rule) -> NewJob:
        identity = uids.identity_digest(header)
        analysis = self._analysis
        key = uids.analysis_key(
            AnalysisInputs(
                sop_instance_uid=received.sop_instance_uid,
                identity_digest=identity,
                target=NORMAL,
                model_digest=analysis.model_digest,
                calibration_digest=analysis.calibration_digest,
                mode=analysis.mode,
                seed=analysis.seed,
            )
        )
        return NewJob(
            key=key,
            sop_instance_uid=received.sop_instance_uid,
            identity_digest=identity,
            object=received.object,
            calling_ae_title=received.calling_ae_title,
            rule=rule.name,
            target=NORMAL,
            model_digest=analysis.model_digest,
            mode=analysis.mode,
            seed=analysis.seed,
            results=tuple(rule.results),
            destinations=tuple(rule.destinations),
            promised={n: self._overrides.get(n, tuple(rule.results)) for n in rule.destinations},
            supersedes=self._superseded(received.sop_instance_uid, identity),
            created_at=self._clock(),
        )

    def _superseded(self, sop_instance_uid: str, identity: str) -> str:
        """The newest job of the same film under another identity, if there is one."""
        known = self._store.jobs(limit=100, sop_instance_uid=sop_instance_uid)
        return next((job.key for job in known if job.identity_digest != identity), "")


class _Pauses:
    """How many calls pass over each film that its service answers wrongly, by its number.

    Such answers come from filters, for good; each look is some requests, and the calls are many.
    """

    def __init__(self) -> None:
        self._length: dict[int, int] = {}
        self._left: dict[int, int] = {}

    def lengthen(self, number: int) -> None:
        """Twice as many as the last time are to pass it over."""
        self._left[number] = self._length[number] = min(
            2 * self._length.get(number, 1), _LONGEST_PAUSE
        )

    def pass_over(self, number: int) -> bool:
        """Whether this call is one of them."""
        left = self._left.get(number, 0)
        self._left[number] = left - 1
        return left > 0

    def end_others(self, numbers: Collection[int]) -> None:
        """The films that are not of these wait no more."""
        self._length = {one: calls for one, calls in self._length.items() if one in numbers}
        self._left = {one: calls for one, calls in self._left.items() if one in numbers}


def _may_be_refused(same: Job, rule: Rule) -> bool:
    """Whether no analysis is undone by it: another rule may let pass what this one refuses."""
    failed_here = same.state is JobState.FAILED and same.rule == rule.name
    return same.state is JobState.REJECTED or failed_here
