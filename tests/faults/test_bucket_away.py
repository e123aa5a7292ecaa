"""Objects in a bucket whose service is away: films are told to come again, and nothing is sent."""

import hashlib
from pathlib import Path

import pytest

from dicom_node.config import Limits
from dicom_node.intake.pressure import Pressure
from dicom_node.work import overview
from pipeline import testing
from storage.errors import ObjectsUnavailableError
from storage.memory import MemoryJobStore
from storage.objects import FsspecObjectStore
from tests.delivery.parcels import NOW
from tests.faults import hospital
from tests.intake.conftest import Receiver, Start, start  # noqa: F401 - a fixture
from tests.intake.films import encoded, film
from tests.intake.sender import Told, association, store
from tests.storage import bucket

SUCCESS = Told(status=0x0000, comment="")
AWAY = Told(status=0xA700, comment="storage is not available, try again later")


def send(receiver: Receiver, name: str) -> Told | None:
    with association(receiver.port) as assoc:
        return store(assoc, encoded(film(name)), sop_instance_uid=name)


def test_films_are_told_to_come_again_while_the_bucket_is_away(
    start: Start,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bucket.running() as server:
        server.make_known(monkeypatch)
        place, rows = server.place(), MemoryJobStore()
        objects = FsspecObjectStore(place)
        pressure = Pressure(store=rows, objects=objects, limits=Limits(), clock_s=lambda: 0.0)
        receiver = start(store=rows, objects=objects, pressure=pressure)
        assert send(receiver, "1.2.1") == SUCCESS
        server.kill()
        assert send(receiver, "1.2.2") == AWAY
        with pytest.raises(ObjectsUnavailableError):  # the status page is 503
            overview.look(rows, objects, {}, NOW)
        server.start()
        assert send(receiver, "1.2.2") == SUCCESS
        kept = rows.received(1, "1.2.2")[0].object
        found = server.bytes_of(f"{place}/{kept.name}")
    assert found.endswith(encoded(film("1.2.2")))
    assert hashlib.sha256(found).hexdigest() == kept.digest


@pytest.mark.peer
@pytest.mark.timeout(900)
def test_a_node_goes_on_by_itself_when_its_bucket_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testing.write_tiny_model(tmp_path / "model")
    with (
        bucket.running() as server,
        hospital.opened(tmp_path, tmp_path / "model", "", workers=1) as place,
    ):
        server.make_known(monkeypatch)
        monkeypatch.setenv("VALD_STORAGE__OBJECTS", server.place())
        place.node.start()
        place.send(place.expose(2))
        assert all(place.told.values())
        with server.silent():
            away = place.expose(1)
            place.send(away)
            assert not place.told[away[0]]
        place.resend_what_failed()
        place.wait_for_the_end()
        assert len(place.node.jobs()) == 3
        assert len(place.archives["pacs"].uids()) == 3 * 2
        assert place.node.results() == []  # in the folder of the configuration
        assert '"event": "process died"' not in place.node.log()
