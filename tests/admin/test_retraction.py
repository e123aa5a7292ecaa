"""`vald-node retract`: a recalled model's results are rejected where they went."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from dicom_node import wiring
from dicom_node.config import NodeConfig
from dicom_node.results import inspection, registry
from storage import migrate
from storage.jobs import Decision, Result
from storage.states import DeliveryState
from tests.admin import commands
from tests.results import sources
from tests.storage.samples import NOON, film, new_job

RECALLED, SOUND = "abcdef0123456789" * 4, "fedcba9876543210" * 4


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node that has two films analysed by the recalled model, and one by a sound one."""
    path = commands.config(tmp_path, "embedded")
    settings = wiring.read_config(path, {})
    migrate.up(settings.storage.database)
    for key, digest in (("k1", RECALLED), ("k2", RECALLED), ("k3", SOUND)):
        analysed(settings, tmp_path, key, digest)
    return path


def analysed(settings: NodeConfig, folder: Path, key: str, digest: str) -> None:
    """The job is PRODUCED with its picture and report, due at pacs and archive."""
    source = sources.source()
    source.SOPInstanceUID = f"1.2.3.4.{key[1:]}"
    context = replace(sources.context_of(source, folder), analysis_key=key)
    store = wiring.open_store(settings)
    objects = wiring.open_objects(settings, store)
    received = store.receive(film(uid=source.SOPInstanceUID, digest=key))
    job = replace(new_job(key, uid=source.SOPInstanceUID), model_digest=digest)
    store.route(received.number, Decision(text="analysed", job_key=key), job)
    running = store.claim("worker", NOON, 60)
    assert running is not None
    assert running.lease is not None
    made = []
    for kind in job.results:
        ds = registry.build(kind, context)
        made.append(
            Result(
                job_key=key,
                kind=kind,
                sop_class_uid=ds.SOPClassUID,
                sop_instance_uid=ds.SOPInstanceUID,
                series_instance_uid=ds.SeriesInstanceUID,
                object=objects.keep(f"results/{key}/{kind}.dcm", registry.encode(ds)),
            )
        )
    store.produce(key, running.lease.token, NOON, made, job.destinations)
    store.close()


def test_every_film_of_the_model_has_a_note_that_names_its_results(config: Path) -> None:
    done = commands.vald("retract", "--model", RECALLED[:12], "--config", config)
    assert done.exit_code == 0, done.output
    assert done.stdout == "abcdef012345: 4 results of 2 films rejected\n"
    settings = wiring.read_config(config, {})
    store = wiring.open_store(settings)
    objects = wiring.open_objects(settings, store)
    for key in ("k1", "k2"):
        *results, note = store.results(key)
        ds = pydicom.dcmread(BytesIO(objects.read(note.object)))
        assert ds.ConceptNameCodeSequence[0].CodeValue == "113037"
        named = [item for item in ds.ContentSequence if item.ValueType in ("IMAGE", "COMPOSITE")]
        uids = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in named}
        assert uids == {result.sop_instance_uid for result in results}
        assert (ds.PatientID, ds.StudyInstanceUID) == ("PID-7", "1.2.3.4.1")
        due = [d for d in store.deliveries(key) if d.state is DeliveryState.DUE]
        assert {(d.sop_instance_uid, d.destination) for d in due} == {
            (note.sop_instance_uid, "pacs"),
            (note.sop_instance_uid, "archive"),
        }
    assert {d.state for d in store.deliveries("k3")} == {DeliveryState.DUE}
    assert len(store.results("k3")) == 2
    store.close()


def test_a_second_retraction_changes_nothing(config: Path) -> None:
    kept = []
    for said in ("4 results of 2 films", "0 results of 0 films"):
        done = commands.vald("retract", "--model", f"SHA256:{RECALLED}", "--config", config)
        assert (done.exit_code, said in done.stdout) == (0, True)
        kept.append([path.read_bytes() for path in notes_below(config)])
    assert len(kept[0]) == 2
    assert kept[0] == kept[1]


def notes_below(config: Path) -> list[Path]:
    return sorted(config.parent.rglob("rejection_note.dcm"))


def test_a_film_whose_results_are_gone_holds_up_no_other(config: Path) -> None:
    settings = wiring.read_config(config, {})
    store = wiring.open_store(settings)
    objects = wiring.open_objects(settings, store)
    (first, second), others = store.results("k1"), store.results("k2")
    for made in (first, second, others[0]):
        objects.remove(made.object)
    done = commands.vald("retract", "--model", RECALLED, "--config", config)
    assert done.exit_code == 1
    assert "2 results of 1 films" in done.stdout  # k2's other result tells whose it is
    assert all(made.sop_instance_uid in done.stdout for made in (first, second))
    assert not any(made.sop_instance_uid in done.stdout for made in others)
    assert len(store.results("k2")) == 3
    store.close()


def test_films_in_work_and_a_model_in_use_are_told(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = wiring.read_config(config, {})
    store = wiring.open_store(settings)
    received = store.receive(film(uid="1.2.3.4.9", digest="k9"))
    job = replace(new_job("k9", uid="1.2.3.4.9"), model_digest=RECALLED)
    store.route(received.number, Decision(text="analysed", job_key="k9"), job)
    store.close()
    monkeypatch.setattr("dicom_node.admin.retraction.model_digest", lambda _: RECALLED)
    done = commands.vald("retract", "--model", RECALLED, "--config", config)
    assert done.exit_code == 1
    assert "1 films are still being analysed" in done.stdout
    assert "go on with this model" in done.stdout


@pytest.mark.parametrize("digest", ["ab", "0" * 64])
def test_a_digest_that_names_no_one_model_is_refused(config: Path, digest: str) -> None:
    done = commands.vald("retract", "--model", digest, "--config", config)
    assert done.exit_code == 1


def test_a_note_that_a_validator_blames_is_not_sent_and_is_told(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = tmp_path / "dciodvfy"  # blames key objects, which only the notes are
    validator.write_text("#!/bin/sh\ngrep -q 113037 $1 && echo 'Error - bad'\nexit 0\n")
    validator.chmod(0o755)
    monkeypatch.setattr(inspection, "installed", lambda: validator)
    done = commands.vald("retract", "--model", RECALLED, "--config", config)
    assert done.exit_code == 1
    store = wiring.open_store(wiring.read_config(config, {}))
    for key in ("k1", "k2"):
        assert len(store.results(key)) == 2
        assert all(made.sop_instance_uid in done.stdout for made in store.results(key))
    store.close()
