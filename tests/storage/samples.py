"""Rows to store, each with what the tests ask about."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from storage.jobs import Decision, Job, NewJob, NewReceived, ObjectRef, Proof, Result
from storage.store import JobStore

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def kept(name: str) -> ObjectRef:
    return ObjectRef(name=f"received/{name}.dcm", digest=name.ljust(64, "0"), size_bytes=3)


def film(uid: str = "1.2.3", digest: str = "a") -> NewReceived:
    return NewReceived(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="CR1",
        address="10.0.0.5",
        received_at=NOON,
        object=kept(digest),
    )


def from_clinic(uid: str = "1.2.3", digest: str = "a") -> NewReceived:
    """The same bytes by another sender."""
    return replace(film(uid, digest), calling_ae_title="CLINIC")


def came(store: JobStore, new: NewReceived, at_s: float, decision: str = "") -> int:
    """The number of a film that came then, and has that decision where one is given."""
    number = store.receive(replace(new, received_at=after(at_s))).number
    if decision:
        store.route(number, Decision(text=decision), None)
    return number


def new_job(key: str = "k1", created_s: float = 0, uid: str = "1.2.3") -> NewJob:
    return NewJob(
        key=key,
        sop_instance_uid=uid,
        identity_digest="i" * 64,
        object=kept("a"),
        calling_ae_title="CR1",
        rule="frontal-chest",
        target="normal",
        model_digest="0" * 64,
        mode="calibrated",
        seed=0,
        results=("secondary_capture", "structured_report"),
        destinations=("pacs", "archive"),
        supersedes="",
        created_at=after(created_s),
    )


def result(key: str, kind: str) -> Result:
    return Result(
        job_key=key,
        kind=kind,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
        sop_instance_uid=f"2.25.{zlib.crc32((key + kind).encode())}",
        series_instance_uid="2.25.9",
        object=kept(kind[:5]),
    )


def submitted(store: JobStore, key: str = "k1", created_s: float = 0) -> None:
    number = store.receive(film(uid=f"1.2.{key[1:]}", digest=key)).number
    job = replace(new_job(key, created_s, f"1.2.{key[1:]}"), object=kept(key))
    store.route(number, Decision(text="analysed", job_key=key), job)


def left_behind(store: JobStore, key: str = "k1") -> None:
    """Its film comes again, and by the rules of now nobody wants it analysed."""
    number = store.receive(film(uid=f"1.2.{key[1:]}", digest=key)).number
    store.route(number, Decision(text="not analysed: no rule matches"), None)


def running(store: JobStore, key: str = "k1") -> tuple[Job, int]:
    submitted(store, key)
    job = store.claim("worker", NOON, lease_s=60)
    assert job is not None
    assert job.lease is not None
    return job, job.lease.token


def produced(store: JobStore, key: str = "k1") -> None:
    job, token = running(store, key)
    made = [result(key, kind) for kind in job.results]
    store.produce(key, token, NOON, made, job.destinations)


def purged(store: JobStore, *made: Result, at_s: float = 99) -> None:
    """These, which have arrived wherever they were due, are purged."""
    when, proof = after(at_s), Proof(delivered=True)
    for one in made:
        assert store.purge_result(one, when, proof, when, lambda _: None)


def guarded_writes(store: JobStore, key: str, token: int) -> list[Callable[[], None]]:
    """Everything that only the holder of a lease may do."""
    made = [result(key, "secondary_capture")]
    return [
        partial(store.heartbeat, key, token, after(99)),
        partial(store.produce, key, token, after(63), made, ["pacs"]),
        partial(store.reject, key, token, after(63), "no"),
        partial(store.fail, key, token, after(63), "no"),
        partial(store.reroute, key, token, after(63), "another model"),
        partial(store.release, key, token, after(63), "no"),
    ]
