"""What is said of a film, at every place where it can stand."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from dicom_node.routing import router
from dicom_node.work import reconcile
from dicom_node.work.reconcile import Account, FilmStanding, Reconciler, Standing
from storage.jobs import Decision, Proof
from storage.memory import MemoryJobStore
from storage.objects import LocalObjectStore
from tests import disk
from tests.storage.samples import (
    NOON,
    after,
    film,
    from_clinic,
    kept,
    left_behind,
    new_job,
    produced,
    result,
    running,
    submitted,
)

SOON, LATE = after(60), after(3601)


class Bench:
    """A store, and the kept files of its films."""

    def __init__(self, folder: Path) -> None:
        self.store, self.objects = MemoryJobStore(), LocalObjectStore(folder)
        self.known = {"pacs", "archive", "clinic"}

    def standings(self, now: object = SOON, promising: set[str] | None = None) -> list[Standing]:
        return [film.standing for film in self.films(now, promising)]

    def films(self, now: object = SOON, promising: set[str] | None = None) -> list[FilmStanding]:
        for received in self.store.received(100):
            self.objects.keep(received.object.name, b"")
        return self.judged(now, promising)

    def judged(self, now: object, promising: set[str] | None = None) -> list[FilmStanding]:
        """Whatever files there are."""
        reconciler = self.reconciler(promising)
        return reconciler.since(NOON, now)  # type: ignore[arg-type]  # a datetime

    def reconciler(self, promising: set[str] | None = None) -> Reconciler:
        return Reconciler(
            store=self.store,
            objects=self.objects,
            promising=frozenset(promising or set()),
            known=frozenset(self.known),
        )

    def deliver(self, destination: str, *, promised: bool = True) -> list[str]:
        parcels = self.store.claim_deliveries(destination, "s", NOON, 60, 10)
        for parcel in parcels:
            self.store.delivered(parcel, NOON, "", promised=promised)
        return [parcel.delivery.sop_instance_uid for parcel in parcels]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def nothing(_: MemoryJobStore) -> None:
    """Only received."""


def claimed(store: MemoryJobStore) -> None:
    store.claim("w", NOON, 60)


@pytest.mark.parametrize("step", [nothing, claimed])
def test_a_film_that_waits_is_under_way_and_after_an_hour_missing(
    bench: Bench, step: Callable[[MemoryJobStore], None]
) -> None:
    submitted(bench.store)
    step(bench.store)
    assert bench.standings() == [Standing.UNDER_WAY]
    (late,) = bench.films(LATE)
    assert (late.standing, late.why) == (
        Standing.MISSING,
        f"job is {bench.store.job('k1').state}",
    )


def test_a_film_whose_time_lies_ahead_is_no_new_one(bench: Bench) -> None:
    """A clock was ahead, and was set back: it would be under way until then."""
    submitted(bench.store)
    assert bench.standings(after(-60)) == [Standing.UNDER_WAY]  # of machines whose clocks differ
    (ahead,) = bench.films(after(-3601))
    assert (ahead.standing, ahead.why) == (
        Standing.MISSING,
        "job is RECEIVED; it came at 2026-03-01, which lies ahead: the clock was set back",
    )
    produced(bench.store)
    for destination in ("pacs", "archive"):
        bench.deliver(destination, promised=False)
    assert bench.standings(after(-3601)) == [Standing.COMPLETE]


def test_a_film_without_a_decision_is_missing_after_an_hour(bench: Bench) -> None:
    bench.store.receive(film())
    assert bench.standings() == [Standing.UNDER_WAY]
    assert [(f.standing, f.why) for f in bench.films(LATE)] == [
        (Standing.MISSING, "no decision yet")
    ]


def test_a_film_whose_file_is_gone_is_missing_at_once(tmp_path: Path) -> None:
    store = MemoryJobStore()
    submitted(store)
    reconciler = Reconciler(
        store=store, objects=LocalObjectStore(tmp_path), promising=frozenset(), known=frozenset()
    )
    (found,) = reconciler.since(NOON, SOON)
    assert (found.standing, found.why) == (
        Standing.MISSING,
        "the kept file is gone; send the film again",
    )


def test_a_kept_file_that_the_disk_does_not_give_is_missing_and_keeps_no_other_unjudged(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.store.receive(film("1.2.9", digest="y"))
    bench.store.receive(film("1.2.10", digest="z"))
    bench.films()
    disk.trouble(monkeypatch, tmp_path / first.object.name)
    found = {one.sop_instance_uid: (one.standing, one.why) for one in bench.judged(SOON)}
    assert found["1.2.9"][0] is Standing.MISSING
    assert found["1.2.9"][1].startswith("the kept file cannot be read now: ")
    assert found["1.2.10"] == (Standing.UNDER_WAY, "no decision yet")


def test_what_is_not_analysed_says_why_and_is_not_missing(bench: Bench) -> None:
    number = bench.store.receive(film("1.2.9", digest="z")).number
    bench.store.route(number, Decision(text="not analysed: lateral"), None)
    _, token = running(bench.store)
    bench.store.reject("k1", token, NOON, "no chest")
    assert [(f.standing, f.why) for f in bench.films(LATE)] == [
        (Standing.NOT_ANALYSED, "no chest"),
        (Standing.NOT_ANALYSED, "not analysed: lateral"),
    ]


def test_a_film_that_broke_the_router_is_missing_until_it_was_sent_again(bench: Bench) -> None:
    number = bench.store.receive(film()).number
    bench.store.route(number, Decision(text=f"{router.BROKEN} (KeyError)"), None)
    (found,) = bench.films()
    assert (found.standing, found.why) == (Standing.MISSING, f"{router.BROKEN} (KeyError)")
    again = bench.store.receive(replace(film(digest="other"), received_at=after(9))).number
    bench.store.route(again, Decision(text="not analysed: lateral"), None)
    assert bench.standings() == [Standing.NOT_ANALYSED] * 2


@pytest.mark.parametrize("decision", [router.BROKEN, router.GONE])
def test_a_film_that_is_owed_a_decision_is_missing_every_day_until_it_has_one(
    bench: Bench, decision: str
) -> None:
    """Even if it was given up after the account of its day, as under way."""
    reconciler = Reconciler(
        store=bench.store, objects=bench.objects, promising=frozenset(), known=frozenset()
    )
    kept = bench.objects.keep("received/film.dcm", b"DICM")
    number = bench.store.receive(replace(film(), object=kept)).number
    missing = []
    for day in range(3):
        reconcile.log_daily(reconciler, bench.store, partial(after, 60 + day * 86400))
        account = reconcile.account(bench.store)
        assert account is not None
        missing.append(account.counts["missing"])
        bench.store.route(number, Decision(text=decision), None)
    assert missing == [0, 1, 1]


def test_a_film_that_was_lost_is_missing_in_no_day_s_account_once_it_is_purged_but_in_its_own(
    bench: Bench,
) -> None:
    number = bench.store.receive(film()).number
    bench.store.route(number, Decision(text=router.GONE), None)
    reconciler = bench.reconciler()
    assert [one.standing for one in reconciler.daily(SOON, LATE)] == [Standing.MISSING]
    (lost,) = bench.store.purgeable_received(SOON, Proof(), 9)
    assert bench.store.purge_received(lost, SOON, Proof(), LATE, lambda _: None)
    assert reconciler.daily(SOON, LATE) == []
    (found,) = reconciler.since(NOON, LATE)
    assert (found.standing, found.why) == (Standing.MISSING, router.GONE)
    again = bench.store.receive(replace(film(digest="other"), received_at=SOON)).number
    bench.store.route(again, Decision(text="not analysed: lateral"), None)
    assert bench.standings() == [Standing.NOT_ANALYSED] * 2


def test_the_note_that_a_film_is_not_analysed_has_to_arrive(bench: Bench) -> None:
    _, token = running(bench.store)
    bench.store.reject("k1", token, NOON, "no chest", [result("k1", "not_analysed")], ["pacs"])
    assert bench.standings() == [Standing.UNDER_WAY]
    (late,) = bench.films(LATE)
    assert (late.standing, late.why) == (Standing.MISSING, "pacs: DUE")
    (uid,) = bench.deliver("pacs")
    assert [(f.standing, f.why) for f in bench.films(LATE)] == [(Standing.NOT_ANALYSED, "no chest")]
    assert bench.standings(LATE, {"pacs"}) == [Standing.MISSING]
    bench.store.commit("pacs", [uid], NOON)
    assert bench.standings(LATE, {"pacs"}) == [Standing.NOT_ANALYSED]


def test_what_a_film_has_left_behind_has_to_arrive_too(bench: Bench) -> None:
    produced(bench.store)
    left_behind(bench.store)
    (waits,) = bench.films()
    assert (waits.standing, waits.why) == (
        Standing.UNDER_WAY,
        "an earlier analysis of it: archive: DUE; pacs: DUE",
    )
    for parcel in bench.store.claim_deliveries("pacs", "s", NOON, 60, 10):
        bench.store.refuse(parcel, NOON, "no", "A900")  # given up for the new decision
    assert [film.why for film in bench.films()] == ["an earlier analysis of it: archive: DUE"]
    bench.deliver("archive", promised=False)
    assert bench.standings() == [Standing.NOT_ANALYSED]


def test_a_film_whose_earlier_results_have_arrived_stands_as_it_was_decided_last(
    bench: Bench,
) -> None:
    produced(bench.store)
    bench.deliver("pacs", promised=False)
    bench.deliver("archive", promised=False)
    left_behind(bench.store)
    submitted(bench.store, "k2")
    left_behind(bench.store, "k2")
    assert bench.standings() == [Standing.UNDER_WAY, Standing.NOT_ANALYSED]
    assert bench.films(LATE)[0].why == "an earlier analysis of it: job is RECEIVED"


def test_a_failed_job_is_missing_at_once(bench: Bench) -> None:
    _, token = running(bench.store)
    bench.store.fail("k1", token, NOON, "model missing")
    assert [(f.standing, f.why) for f in bench.films()] == [(Standing.MISSING, "model missing")]


def test_other_pixels_under_the_uid_of_an_analysed_film_are_named(bench: Bench) -> None:
    produced(bench.store)
    for destination in ("pacs", "archive"):
        bench.deliver(destination)
    other = bench.store.receive(film("1.2.1", "other"))
    said = f"{router.OTHER_PIXELS} (frontal-chest)"
    bench.store.route(other.number, Decision(text=said, job_key="k1"), None)
    newer, first = bench.films()
    assert (newer.standing, newer.why) == (Standing.NOT_ANALYSED, said)
    assert first.standing is Standing.COMPLETE


def test_a_film_is_complete_once_every_result_is_everywhere(bench: Bench) -> None:
    produced(bench.store)
    bench.deliver("pacs")
    (waiting,) = bench.films()
    assert (waiting.standing, waiting.why) == (Standing.UNDER_WAY, "archive: DUE")
    bench.deliver("archive")
    assert bench.standings(LATE) == [Standing.COMPLETE]


def test_where_commitment_is_promised_delivered_is_not_complete(bench: Bench) -> None:
    produced(bench.store)
    uids = bench.deliver("pacs")
    bench.deliver("archive")
    assert bench.standings(SOON, {"pacs"}) == [Standing.UNDER_WAY]
    (late,) = bench.films(LATE, {"pacs"})
    assert (late.standing, late.why) == (Standing.MISSING, "pacs: DELIVERED")
    bench.store.commit("pacs", uids[:1], NOON)
    assert bench.standings(LATE, {"pacs"}) == [Standing.MISSING]
    bench.store.commit("pacs", uids, NOON)
    assert bench.standings(LATE, {"pacs"}) == [Standing.COMPLETE]


def test_what_was_delivered_where_nothing_was_promised_is_complete_whatever_is_now(
    bench: Bench,
) -> None:
    produced(bench.store)
    for name in ("pacs", "archive"):
        bench.deliver(name, promised=False)
    assert bench.standings(LATE, {"pacs"}) == ["complete"]
    bench.known = {"archive"}
    assert bench.standings(LATE) == ["complete"]


def test_what_a_removed_destination_was_to_commit_is_not_complete(bench: Bench) -> None:
    produced(bench.store)
    for name in ("pacs", "archive"):
        bench.deliver(name)
    assert bench.standings() == ["complete"]  # it is configured to promise nothing
    bench.known = {"archive"}
    assert bench.standings() == ["under way"]
    assert bench.standings(LATE) == ["missing"]
    bench.store.drop_deliveries("pacs", after(9), "its destination is no more")
    assert bench.standings(LATE) == ["complete"]


def test_a_result_that_is_lost_to_its_destination_is_missing_at_once(bench: Bench) -> None:
    produced(bench.store)
    for parcel in bench.store.claim_deliveries("pacs", "s", NOON, 60, 1):
        bench.store.refuse(parcel, NOON, "cannot understand (C000)")
    assert [(f.standing, f.why) for f in bench.films()] == [
        (Standing.MISSING, "pacs: REFUSED (cannot understand (C000))")
    ]
    bench.store.retry("k1", NOON)
    bench.store.expire("pacs", after(1), NOON, "too late")
    (expired,) = bench.films()
    assert (expired.standing, expired.why) == (Standing.MISSING, "pacs: EXPIRED (too late)")


def test_films_received_earlier_are_not_looked_at(bench: Bench) -> None:
    submitted(bench.store)
    reconciler = Reconciler(
        store=bench.store, objects=bench.objects, promising=frozenset(), known=frozenset()
    )
    assert reconciler.since(NOON + timedelta(seconds=1), SOON) == []


def test_the_standings_are_counted_by_name(bench: Bench) -> None:
    bench.store.receive(film("1.2.9", digest="z"))
    produced(bench.store)
    assert kept("z").name == "received/z.dcm"
    assert reconcile.counts(bench.films()) == {
        "complete": 0,
        "not_analysed": 0,
        "under_way": 2,
        "missing": 0,
    }


def test_the_daily_one_is_kept_and_made_up_for_where_it_was_missed(bench: Bench) -> None:
    submitted(bench.store)
    day_s = 86400.0
    reconciler = Reconciler(
        store=bench.store, objects=bench.objects, promising=frozenset(), known=frozenset()
    )
    assert reconcile.is_late(bench.store, NOON)
    reconcile.log_daily(reconciler, bench.store, lambda: after(60))
    assert reconcile.account(bench.store) == Account(
        at=after(60),
        counts={"complete": 0, "not_analysed": 0, "under_way": 0, "missing": 1},
        missing=("k1",),  # its file is gone
    )
    assert not reconcile.is_late(bench.store, after(60 + day_s))
    assert reconcile.is_late(bench.store, after(60 + day_s + 3601))


def test_the_daily_one_comes_back_to_what_was_under_way_and_tells_a_loss_once(
    bench: Bench,
) -> None:
    submitted(bench.store)
    bench.objects.keep(bench.store.received(1)[0].object.name, b"")
    reconciler = Reconciler(
        store=bench.store, objects=bench.objects, promising=frozenset(), known=frozenset()
    )

    def missing(at_s: float) -> tuple[str, ...]:
        reconcile.log_daily(reconciler, bench.store, lambda: after(at_s))
        account = reconcile.account(bench.store)
        assert account is not None
        return account.missing

    day_s = 86400.0
    assert missing(1800) == ()
    claimed = bench.store.claim("worker", after(1900), 60)
    assert claimed is not None
    assert claimed.lease is not None
    bench.store.fail("k1", claimed.lease.token, after(2000), "model missing")
    assert missing(1800 + day_s) == ("k1",)
    assert missing(1800 + 3 * day_s) == ()


def test_a_film_of_which_a_result_was_left_out_is_missing(bench: Bench) -> None:
    _, token = running(bench.store)
    made = [result("k1", "secondary_capture")]
    bench.store.produce("k1", token, NOON, made, ["pacs"], left_out="left out: structured_report")
    bench.deliver("pacs")
    (film,) = bench.films()
    assert (film.standing, film.why) == ("missing", "left out: structured_report")


def test_other_pixels_under_a_known_uid_are_not_said_to_be_complete(bench: Bench) -> None:
    produced(bench.store)
    for name in ("pacs", "archive"):
        bench.deliver(name)
    number = bench.store.receive(film("1.2.1", "other")).number
    text = f"{router.OTHER_PIXELS}: the first film is kept (frontal-chest)"
    bench.store.route(number, Decision(text=text, job_key="k1"), None)
    assert bench.standings() == ["not analysed", "complete"]
    assert bench.films()[0].why == text


def test_after_days_away_all_the_time_since_the_last_one_is_looked_at(bench: Bench) -> None:
    reconciler = Reconciler(
        store=bench.store, objects=bench.objects, promising=frozenset(), known=frozenset()
    )
    reconcile.log_daily(reconciler, bench.store, lambda: after(-60))
    submitted(bench.store)
    reconcile.log_daily(reconciler, bench.store, lambda: after(5 * 86400))
    account = reconcile.account(bench.store)
    assert account is not None
    assert account.counts["missing"] == 1


def test_a_film_whose_file_was_gone_before_it_was_decided_about_is_missing(bench: Bench) -> None:
    number = bench.store.receive(film()).number
    bench.store.route(number, Decision(text=router.GONE), None)
    (found,) = bench.films()
    assert (found.standing, found.why) == (Standing.MISSING, router.GONE)


def told(bench: Bench, now: object = SOON) -> list[tuple[str, str, str]]:
    """Sender, standing and reason, the newest first."""
    return [(f.calling_ae_title, str(f.standing), f.why) for f in bench.films(now)]


def test_what_another_sender_s_copy_adds_is_late_by_the_time_that_it_came(bench: Bench) -> None:
    produced(bench.store)
    for name in ("pacs", "archive"):
        bench.deliver(name)
    job, copy = new_job(uid="1.2.1"), from_clinic("1.2.1", "k1")
    number = bench.store.receive(replace(copy, received_at=after(4000))).number
    clinic = replace(job, promised={"clinic": job.results}, created_at=after(4000))
    bench.store.route(number, Decision(text="received again", job_key="k1"), clinic)
    under_way = [(name, "under way", "clinic: DUE") for name in ("CLINIC", "CR1")]
    assert told(bench, after(4060)) == under_way
    assert told(bench, after(7600)) == under_way
    assert bench.standings(after(7601)) == ["missing", "missing"]


def refused(bench: Bench) -> None:
    """The rule of CR1 refuses its film, and the PACS is to be told so by a note that is due."""
    note = {"pacs": ("not_analysed",)}
    number = bench.store.receive(film()).number
    job = replace(new_job(), promised=note)
    said = Decision(text="not analysed: lateral, rule cr", job_key="k1")
    bench.store.route(number, said, job)
    bench.store.reject(
        "k1", taken(bench), NOON, "lateral", [result("k1", "not_analysed")], ["pacs"]
    )


def taken(bench: Bench) -> int:
    job = bench.store.claim("w", NOON, 60)
    assert job is not None
    assert job.lease is not None
    return job.lease.token


def clinic_lets_it_pass(bench: Bench) -> None:
    """The clinic sends the same bytes, which its rule has analysed."""
    number = bench.store.receive(from_clinic()).number
    job = replace(new_job(), calling_ae_title="CLINIC", promised={"clinic": ("picture",)})
    bench.store.route(number, Decision(text="analysed anew", job_key="k1"), job)


def test_a_refused_film_is_not_complete_because_another_sender_s_copy_is_analysed(
    bench: Bench,
) -> None:
    refused(bench)
    bench.deliver("pacs")
    clinic_lets_it_pass(bench)
    no = ("CR1", "not analysed", "not analysed: lateral, rule cr")
    assert told(bench) == [("CLINIC", "under way", "job is RECEIVED"), no]
    token = taken(bench)
    bench.store.produce("k1", token, NOON, [result("k1", "picture")], ["clinic"])
    assert told(bench) == [("CLINIC", "under way", "clinic: DUE"), no]
    bench.deliver("clinic")
    assert told(bench) == [("CLINIC", "complete", ""), no]


def test_a_refused_film_is_not_missing_because_another_sender_s_analysis_failed(
    bench: Bench,
) -> None:
    refused(bench)
    bench.deliver("pacs")
    clinic_lets_it_pass(bench)
    bench.store.fail("k1", taken(bench), NOON, "no model")
    assert [standing for _, standing, _ in told(bench)] == ["missing", "not analysed"]


def test_the_note_of_a_refused_film_has_to_arrive_whatever_is_made_of_another_sender_s_copy(
    bench: Bench,
) -> None:
    refused(bench)
    clinic_lets_it_pass(bench)
    bench.store.produce("k1", taken(bench), NOON, [result("k1", "picture")], ["clinic"])
    bench.deliver("clinic")
    assert told(bench) == [("CLINIC", "complete", ""), ("CR1", "under way", "pacs: DUE")]
    assert told(bench, LATE)[1] == ("CR1", "missing", "pacs: DUE")


def test_a_film_sent_again_is_one_of_the_time_in_which_it_was_sent_again(bench: Bench) -> None:
    three_days = 3 * 86400.0
    bench.store.receive(film())
    bench.store.receive(replace(film(), received_at=after(three_days)))
    reconciler = Reconciler(
        store=bench.store, objects=bench.objects, promising=frozenset(), known=frozenset()
    )
    bench.objects.keep(bench.store.received(1)[0].object.name, b"")
    day_before, soon = after(three_days - 86400), after(three_days + 60)
    (found,) = reconciler.since(day_before, soon)
    assert (found.standing, found.received_at) == ("under way", after(three_days))
    assert reconciler.daily(day_before, soon) == [found]
