"""`vald-node retract`: a recalled model's results are rejected where they went."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from dicom_node import node
from dicom_node.config import NodeConfig
from dicom_node.results import registry
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
    settings = node.read_config(path, {})
    migrate.up(settings.storage.database)
    for key, digest in (("k1", RECALLED), ("k2", RECALLED), ("k3", SOUND)):
        analysed(settings, tmp_path, key, digest)
    return path


def analysed(settings: NodeConfig, folder: Path, key: str, digest: str) -> None:
    """The job is PRODUCED with its picture and report, due at pacs and archive."""
    source = sources.source()
    source.SOPInstanceUID = f"1.2.3.4.{key[1:]}"
    context = replace(sources.context_of(source, folder), analysis_key=key)
    store, objects = node.open_store(settings), node.open_objects(settings)
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
    settings = node.read_config(config, {})
    store, objects = node.open_store(settings), node.open_objects(settings)
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
    for said in ("4 results of 2 films", "0 results of 0 films"):
        done = commands.vald("retract", "--model", f"sha256:{RECALLED}", "--config", config)
        assert said in done.stdout


@pytest.mark.parametrize("digest", ["ab", "0" * 64])
def test_a_digest_that_names_no_one_model_is_refused(config: Path, digest: str) -> None:
    done = commands.vald("retract", "--model", digest, "--config", config)
    assert done.exit_code == 1
