"""A folder of objects that is a link, or holds one: where it leads is looked at each time."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import ObjectsUnavailableError
from storage.objects import LocalObjectStore


def switch(link: Path, target: Path) -> None:
    """The link leads there from now on."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def linked(folder: Path) -> Path:
    """A link to a store's folder on a first volume."""
    (folder / "old").mkdir()
    switch(folder / "objects", folder / "old")
    return folder / "objects"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_that_is_switched_leads_all_processes_to_the_same_folder(
    tmp_path: Path, is_there: bool
) -> None:
    """The store was copied to another volume, and the old one taken away at once, or later."""
    link = linked(tmp_path)
    opened = LocalObjectStore(link)
    before = opened.keep("received/ab/1.dcm", b"DICM")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    switch(link, tmp_path / "new")
    if not is_there:
        (tmp_path / "old").rename(tmp_path / "dead")
    after = opened.keep("received/ab/2.dcm", b"DICM")
    for store in (opened, LocalObjectStore(link, opened.mark)):
        assert store.read(before) == store.read(after) == b"DICM"
    assert (tmp_path / "new" / after.name).exists()


def test_what_is_written_while_its_link_is_switched_is_not_kept(tmp_path: Path) -> None:
    link = linked(tmp_path)
    opened = LocalObjectStore(link)
    shutil.copytree(tmp_path / "old", tmp_path / "new")

    def switching() -> Iterator[bytes]:
        yield b"DI"
        switch(link, tmp_path / "new")
        yield b"CM"

    with pytest.raises(ObjectsUnavailableError, match="switched"):
        opened.keep("received/1.dcm", switching())
    assert list((tmp_path / "new").rglob("*.dcm")) == []


@pytest.mark.parametrize("place", ["", "received", "results"])
def test_a_link_to_a_volume_that_is_away_loses_nothing_and_goes_on_when_it_is_back(
    tmp_path: Path, place: str
) -> None:
    root = tmp_path / "objects"
    if place:
        root.mkdir()
    (tmp_path / "volume").mkdir()
    switch(root / place, tmp_path / "volume")
    opened = LocalObjectStore(root)
    refs = [opened.keep(f"{name}/1.dcm", b"DICM") for name in ("received", "results")]
    (tmp_path / "volume").rename(tmp_path / "away")
    for ref in refs:
        for look in (opened.read, opened.local_path, opened.demand, opened.remove):
            with pytest.raises(ObjectsUnavailableError):
                look(ref)
    for name in ("received/2.dcm", "results/2.dcm"):
        with pytest.raises(ObjectsUnavailableError):
            opened.keep(name, b"DICM")
    with pytest.raises(ObjectsUnavailableError):
        opened.free_bytes()
    with pytest.raises(ObjectsUnavailableError):
        list(opened.stale(0))
    assert not (tmp_path / "volume").exists()
    (tmp_path / "away").rename(tmp_path / "volume")
    assert [opened.read(ref) for ref in refs] == [b"DICM", b"DICM"]
    assert opened.keep("received/2.dcm", b"DICM").size_bytes == 4


def test_a_store_is_not_made_where_a_link_leads_to_what_is_away(tmp_path: Path) -> None:
    switch(tmp_path / "objects", tmp_path / "away")
    with pytest.raises(ObjectsUnavailableError, match="a link to what is away"):
        LocalObjectStore(tmp_path / "objects")
    (tmp_path / "away").mkdir()
    assert LocalObjectStore(tmp_path / "objects").mark


def test_what_is_old_is_found_in_a_linked_folder_of_ours_and_in_no_other(tmp_path: Path) -> None:
    opened = LocalObjectStore(tmp_path / "objects")
    for name, link in (("films", "received"), ("home", "elsewhere")):
        (tmp_path / name).mkdir()
        switch(tmp_path / "objects" / link, tmp_path / name)
    (tmp_path / "home" / "letter.txt").write_bytes(b"x")
    opened.keep("received/ab/1.dcm", b"DICM")
    (tmp_path / "films" / "ab" / "half.part").write_bytes(b"D")
    assert list(opened.stale(-1)) == ["received/ab/1.dcm"]
    assert opened.sweep(-1) == 1
    assert opened.drop_stale("received/ab/1.dcm", -1)
    assert [path.name for path in (tmp_path / "films").rglob("*")] == ["ab"]
