"""One place of objects is one database's: another neither starts on it nor sweeps it."""

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dicom_node import config, node, wiring
from dicom_node.admin import doctor
from dicom_node.config import NodeConfig
from dicom_node.work.retention import sweep_unknown
from storage import migrate
from storage.errors import ObjectsUnavailableError, StoreMismatchError
from storage.jobs import ObjectRef
from storage.objects import ObjectStore, is_whole, open_store
from storage.objects.whole import MARK, ref_of
from storage.sql import SqlJobStore
from storage.store import JobStore
from tests.admin import commands
from tests.storage.bucket import S3Server
from tests.storage.conftest import bucket, s3_server  # noqa: F401 - fixtures
from tests.storage.samples import NOON, film


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest) -> str:
    """Where objects are kept."""
    if request.param == "folder":
        return "var/objects"
    server: S3Server = request.getfixturevalue("bucket")
    return server.place()


def of(folder: Path, database: str, place: str) -> NodeConfig:
    """The configuration of a node with that database."""
    url = f"sqlite:///var/{database}.db"
    return config.load(commands.config(folder, "embedded", database=url, objects=place), {})


def started(settings: NodeConfig) -> tuple[JobStore, ObjectStore]:
    """Rows and objects, as a node that starts has them."""
    return node._migrated(settings)


def refused(settings: NodeConfig) -> str:
    """Why neither `serve` nor `check` lets a node start."""
    with pytest.raises(StoreMismatchError) as fault:
        started(settings)
    found = doctor._objects(settings)
    assert (found.good, found.fatal, found.said) == (False, True, str(fault.value))
    return found.said


def receive(store: JobStore, objects: ObjectStore) -> ObjectRef:
    """A film that is answered with success."""
    kept = objects.keep("received/ab/1.dcm", b"DICM")
    store.receive(replace(film("1.2.3"), object=kept))
    return kept


def forget_marks(settings: NodeConfig) -> None:
    """The database is as a version left it that knew none."""
    path = settings.storage.database.removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM notices")


def test_another_database_is_refused_where_one_has_films(tmp_path: Path, place: str) -> None:
    store, objects = started(of(tmp_path, "vald", place))
    kept = receive(store, objects)
    said = refused(of(tmp_path, "test", place))
    assert "set storage.objects to a place of this database's own, or storage.database back" in said
    again, objects = started(of(tmp_path, "vald", place))
    assert sweep_unknown(again, objects, -1) == 0
    assert is_whole(objects, kept)


def test_another_database_is_refused_before_the_first_film_too(tmp_path: Path, place: str) -> None:
    """The sweep of either would remove the films of the other, once they are there."""
    started(of(tmp_path, "vald", place))
    refused(of(tmp_path, "test", place))
    refused(of(tmp_path, "test", place))  # also by then it knows no place


def test_a_new_database_is_refused_where_films_are_that_nobody_has_marked(
    tmp_path: Path, place: str
) -> None:
    objects = open_store(of(tmp_path, "vald", place).storage.objects)
    objects.keep("results/1.dcm", b"DICM")
    if objects.found():
        forget_mark(objects)
    refused(of(tmp_path, "vald", place))


def test_many_processes_and_nodes_share_one_database_and_its_place(
    tmp_path: Path, place: str
) -> None:
    settings = of(tmp_path, "vald", place)
    migrate.up(settings.storage.database)
    with ThreadPoolExecutor() as pool:
        opened = list(pool.map(lambda _: started(settings), range(3)))
    assert len({objects.mark for _, objects in opened}) == 1
    assert doctor._objects(settings).good


def test_a_start_that_was_cut_off_before_the_database_knew_its_place_is_made_good(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of(tmp_path, "vald", place)
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(SqlJobStore, "post", interrupted)
        started(settings)
    assert doctor._objects(settings).good
    started(settings)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def knows(settings: NodeConfig, mark: str) -> None:
    """The database is as a version left it that noted the mark of whatever place it met."""
    forget_marks(settings)
    store = SqlJobStore(settings.storage.database)
    store.post("objects", mark, NOON)
    store.close()


def two_that_share(folder: Path, place: str) -> tuple[NodeConfig, NodeConfig, ObjectRef]:
    """Databases of such a version with one place, and a film of the first in it."""
    one, other = (of(folder, name, place) for name in ("vald", "test"))
    store, objects = started(one)
    kept = receive(store, objects)
    store.close()
    store, objects_elsewhere = started(of(folder, "test", "elsewhere"))
    receive(store, objects_elsewhere)
    store.close()
    for settings in (one, other):
        knows(settings, objects.mark)
    return one, other, kept


def test_of_two_databases_that_know_one_mark_the_first_that_starts_has_the_place(
    tmp_path: Path, place: str
) -> None:
    one, other, kept = two_that_share(tmp_path, place)
    shared = open_store(one.storage.objects, "?").found()
    assert doctor._objects(one).good
    assert doctor._objects(other).good
    _, objects = started(one)
    assert shared != objects.mark == objects.found()
    refused(other)
    before = open_store(other.storage.objects, shared)  # as the other had it open
    with pytest.raises((StoreMismatchError, ObjectsUnavailableError)):
        sweep_unknown(SqlJobStore(other.storage.database), before, -1)
    assert doctor._objects(one).good
    assert is_whole(started(one)[1], kept)


def test_a_start_that_was_cut_off_after_it_took_a_place_over_is_made_good(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, _ = two_that_share(tmp_path, place)
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(SqlJobStore, "post", interrupted)
        started(one)
    assert doctor._objects(one).good
    refused(other)
    started(one)


def test_of_two_that_start_at_once_one_has_the_place(tmp_path: Path) -> None:
    settings = two_that_share(tmp_path, "var/objects")[:2]
    with ThreadPoolExecutor() as pool:
        starts = [pool.submit(wiring.open_objects, one, wiring.open_store(one)) for one in settings]
    faults = [start.exception() for start in starts]
    assert [type(fault) for fault in faults if fault] == [StoreMismatchError]


def test_a_place_that_is_away_is_not_taken_over_until_it_is_back(tmp_path: Path) -> None:
    one, _, kept = two_that_share(tmp_path, "var/objects")
    root, away = tmp_path / "var/objects", tmp_path / "away"
    root.rename(away)
    with pytest.raises(ObjectsUnavailableError):
        started(one)
    assert not root.exists()
    away.rename(root)
    assert is_whole(started(one)[1], kept)


def test_a_database_with_films_that_knows_no_place_is_refused_where_another_has_marked_it(
    tmp_path: Path, place: str
) -> None:
    store, objects = started(of(tmp_path, "vald", place))
    kept = receive(store, objects)
    receive(*started(of(tmp_path, "test", "elsewhere")))
    forget_marks(of(tmp_path, "test", "elsewhere"))
    refused(of(tmp_path, "test", place))
    assert is_whole(objects, kept)


def test_a_database_of_an_earlier_version_takes_the_place_of_its_films(
    tmp_path: Path, place: str
) -> None:
    settings = of(tmp_path, "vald", place)
    store, objects = started(settings)
    kept = receive(store, objects)
    store.close()
    forget_marks(settings)
    forget_mark(objects)
    assert doctor._objects(settings).good
    store, now = started(settings)
    assert now.mark == now.found() != objects.mark
    assert sweep_unknown(store, now, -1) == 0
    assert is_whole(now, kept)
    refused(of(tmp_path, "test", place))


def forget_mark(objects: ObjectStore) -> None:
    """There is none in its place, by another's hand."""
    objects.remove(ref_of(MARK, b""))


def test_a_database_that_knows_another_place_does_not_start_on_this_one(
    tmp_path: Path, place: str
) -> None:
    started(of(tmp_path, "vald", place))
    started(of(tmp_path, "test", "elsewhere"))
    refused(of(tmp_path, "test", place))


def test_nothing_is_swept_of_a_place_that_is_not_known_to_be_ours(
    tmp_path: Path, place: str
) -> None:
    store, objects = started(of(tmp_path, "vald", place))
    stray = objects.keep("received/ab/stray.dcm", b"DICM")
    forget_mark(objects)
    with pytest.raises(ObjectsUnavailableError, match=f"should say {objects.mark}"):
        sweep_unknown(store, objects, -1)
    if place.startswith("s3:"):
        assert is_whole(objects, stray)
    other = open_store(of(tmp_path, "vald", place).storage.objects, "0" * 32)
    other.mark_as("0" * 32)
    with pytest.raises((StoreMismatchError, ObjectsUnavailableError)):
        sweep_unknown(store, objects, -1)
    assert is_whole(other, stray)


def test_a_start_says_that_a_linked_folder_is_away(tmp_path: Path) -> None:
    settings = of(tmp_path, "vald", "var/objects")
    started(settings)
    (tmp_path / "var/objects/received").symlink_to(tmp_path / "away")
    with capture_logs() as said:
        started(settings)
    (away,) = (line for line in said if line["event"] == "objects unavailable")
    assert away["error"].endswith("received: a link to what is away")


def put_mark(settings: NodeConfig, said: str) -> None:
    """Somebody does as a fault says: its mark is in the place, instead of what was there."""
    (mark,) = re.findall(r"says? ([0-9a-f]{32})", said)
    by_hand = open_store(settings.storage.objects, mark)
    forget_mark_of(settings)
    by_hand.mark_as(mark)


def forget_mark_of(settings: NodeConfig) -> None:
    """The place has none, by another's hand."""
    if "://" in settings.storage.objects:
        forget_mark(open_store(settings.storage.objects, "?"))
    else:
        Path(settings.storage.objects, MARK).unlink(missing_ok=True)


def takes_films(settings: NodeConfig) -> bool:
    """Whether a node with that configuration starts, keeps a film and sweeps."""
    store, objects = started(settings)
    kept = receive(store, objects)
    return sweep_unknown(store, objects, -1) == 0 and is_whole(objects, kept)


def test_a_database_that_had_another_place_takes_a_new_one_as_is_said(
    tmp_path: Path, place: str
) -> None:
    """Such as a copy of one, for tests."""
    started(of(tmp_path, "vald", "elsewhere"))
    settings = of(tmp_path, "vald", place)
    found = doctor._objects(settings)
    assert (found.good, found.fatal) == (False, False)
    assert found.said.endswith(". If this is to be a new place, write that into it")
    put_mark(settings, found.said)
    assert doctor._objects(settings).good
    assert takes_films(settings)


def test_a_database_that_is_refused_takes_a_place_of_its_own_as_is_said(
    tmp_path: Path, place: str
) -> None:
    started(of(tmp_path, "vald", "elsewhere"))
    started(of(tmp_path, "test", "its place"))
    said = refused(of(tmp_path, "test", "elsewhere"))
    settings = of(tmp_path, "test", place)
    put_mark(settings, said)
    assert takes_films(settings)


def test_a_database_that_is_made_anew_takes_its_former_empty_place_as_is_said(
    tmp_path: Path, place: str
) -> None:
    settings = of(tmp_path, "vald", place)
    store, _ = started(settings)
    store.close()
    for file in Path(tmp_path, "var").glob("vald.db*"):
        file.unlink()
    before = doctor._objects(settings)  # by then it has no mark that could be named
    assert before.fatal
    assert "says (a mark that `vald-node serve` names): write that" in before.said
    put_mark(settings, refused(settings))
    assert takes_films(settings)
