"""Objects are kept whole or not at all."""

import errno
import gc
import hashlib
import os
import platform
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from storage import objects
from storage.errors import (
    ObjectMissingError,
    ObjectsUnavailableError,
    OutOfSpaceError,
    StorageError,
    StoreMismatchError,
)
from storage.objects import (
    FsspecObjectStore,
    LocalObjectStore,
    MemoryObjectStore,
    ObjectStore,
    local,
    remote,
)
from storage.objects.whole import MARK, ref_of
from tests import disk


@pytest.fixture(params=["local", "fsspec", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return LocalObjectStore(tmp_path / "objects")
    if request.param == "s3":
        return FsspecObjectStore(request.getfixturevalue("bucket").place())
    if request.param == "fsspec":
        return FsspecObjectStore(f"memory://{tmp_path.name}")
    return MemoryObjectStore(tmp_path)


def files(folder: Path) -> list[Path]:
    """What is in a store's folder, besides its mark."""
    return [path for path in folder.iterdir() if path.name != MARK]


def test_a_mark_is_changed_by_who_knows_it_alone(store: ObjectStore) -> None:
    store.mark_as("0" * 32)
    known = store.mark
    store.mark_anew("a" * 32)
    assert store.found() == store.mark == "a" * 32
    if not isinstance(store, MemoryObjectStore):  # which nobody else has
        store.mark = known
        store.mark_anew("b" * 32)
        assert store.found() == store.mark == "a" * 32


def test_what_was_kept_is_read_back_with_its_digest(store: ObjectStore) -> None:
    ref = store.keep("received/ab/film.dcm", b"DICM")
    assert (ref.name, ref.size_bytes) == ("received/ab/film.dcm", 4)
    assert ref.digest == hashlib.sha256(b"DICM").hexdigest()
    assert store.read(ref) == b"DICM"
    assert store.local_path(ref).read_bytes() == b"DICM"


def test_a_file_that_is_to_be_whole_is_not_had_of_other_bytes(store: ObjectStore) -> None:
    ref = store.keep("x", b"first")
    assert store.whole_path(ref).read_bytes() == b"first"
    store.keep("x", b"other")
    with pytest.raises(ObjectMissingError, match="damaged"):
        store.whole_path(ref)


def test_an_object_is_demanded_without_being_read(store: ObjectStore) -> None:
    ref = store.keep("x/film.dcm", b"DICM")
    store.demand(ref)
    store.remove(ref)
    with pytest.raises(ObjectMissingError):
        store.demand(ref)


def test_what_is_old_enough_is_named_and_dropped(store: ObjectStore) -> None:
    store.keep("received/ab/film.dcm", b"DICM")
    assert list(store.stale(3600)) == []
    assert not store.drop_stale("received/ab/film.dcm", 3600)
    assert list(store.stale(-1)) == ["received/ab/film.dcm"]
    assert store.drop_stale("received/ab/film.dcm", -1)
    assert not store.drop_stale("received/ab/film.dcm", -1)
    assert list(store.stale(-1)) == []


def test_a_file_that_the_disk_does_not_give_is_not_stale_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalObjectStore(tmp_path)
    for name in ("received/a.dcm", "received/b.dcm"):
        store.keep(name, b"x")
    disk.trouble(monkeypatch, tmp_path / "received/a.dcm")
    assert list(store.stale(-1)) == ["received/b.dcm"]


def test_chunks_are_joined(store: ObjectStore) -> None:
    assert store.read(store.keep("x", [b"ab", bytearray(b"c")])) == b"abc"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_buffer_is_kept(store: ObjectStore, kind: type[bytearray] | type[memoryview]) -> None:
    assert store.read(store.keep("x", kind(b"abc"))) == b"abc"


def test_a_name_that_is_kept_again_holds_the_new_bytes_only(store: ObjectStore) -> None:
    old, new = store.keep("x", b"long first"), store.keep("x", b"second")
    assert store.read(new) == b"second"
    with pytest.raises(ObjectMissingError, match="damaged"):
        store.read(old)


def test_keeping_the_same_again_is_the_same(store: ObjectStore) -> None:
    assert store.keep("x", b"one") == store.keep("x", b"one")


def test_what_was_removed_is_gone_and_may_be_removed_again(store: ObjectStore) -> None:
    ref, other = store.keep("a/b.dcm", b"one"), store.keep("a/c.dcm", b"two")
    for _ in range(2):
        store.remove(ref)
        with pytest.raises(ObjectMissingError):
            store.read(ref)
    assert store.read(other) == b"two"


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    ref = ref_of("gone", b"")
    with pytest.raises(ObjectMissingError, match="gone"):
        store.read(ref)
    with pytest.raises(ObjectMissingError, match="gone"):
        store.local_path(ref)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a//b", "a/./b", "a/", "a\0b", "a.part"]
)
def test_a_name_cannot_leave_the_store(store: ObjectStore, name: str) -> None:
    with pytest.raises(ValueError, match="plain relative path"):
        store.keep(name, b"")


def test_a_damaged_object_is_not_given_out(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    ref = store.keep("x", b"good")
    (tmp_path / "x").write_bytes(b"baad")
    with pytest.raises(ObjectMissingError, match="damaged"):
        store.read(ref)


def test_an_object_cut_short_is_not_given_out(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    ref = store.keep("x", b"good")
    os.truncate(tmp_path / "x", 2)
    with pytest.raises(ObjectMissingError, match="damaged"):
        store.read(ref)


def failing(number: int) -> Iterator[bytes]:
    yield b"half of it"
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_in_the_middle_is_told_and_left_clean(
    tmp_path: Path, number: int
) -> None:
    with pytest.raises(OutOfSpaceError):
        LocalObjectStore(tmp_path).keep("x", failing(number))
    assert files(tmp_path) == []


def test_a_failing_disk_is_told_and_left_clean(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Input/output error"):
        LocalObjectStore(tmp_path).keep("x", failing(errno.EIO))
    assert files(tmp_path) == []


def test_bytes_that_stop_coming_leave_nothing_behind(tmp_path: Path) -> None:
    def cut() -> Iterator[bytes]:
        yield b"half of it"
        raise RuntimeError("association aborted")

    with pytest.raises(RuntimeError, match="aborted"):
        LocalObjectStore(tmp_path).keep("x", cut())
    assert files(tmp_path) == []


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_keep_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalObjectStore(tmp_path)
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        target = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        name = "file" if target.endswith(".part") else str(Path(target).relative_to(tmp_path))
        synced.append((name, (tmp_path / "a/b/x").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    store.keep("a/b/x", b"DICM")
    assert synced == [(".", False), ("a", False), ("file", False), ("a/b", True)]


def test_a_full_store_keeps_nothing(tmp_path: Path) -> None:
    store = MemoryObjectStore(tmp_path, capacity_bytes=3)
    with pytest.raises(OutOfSpaceError):
        store.keep("x", b"four")


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file-size limit makes the kernel refuse the write in the middle, as a full disk does."""
    script = textwrap.dedent(f"""
        import resource, signal
        from pathlib import Path
        from storage.errors import OutOfSpaceError
        from storage.objects import LocalObjectStore
        store = LocalObjectStore(Path({str(tmp_path)!r}))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            store.keep("x", [b"y" * 4096] * 4)
        except OutOfSpaceError as fault:
            print("told:", fault)
    """)
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("told: object x: no space left")
    assert files(tmp_path) == []


def test_unfinished_files_are_swept_once_they_are_old(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    kept = store.local_path(store.keep("in/x", b"whole"))
    old, young = tmp_path / "in" / ".1.part", tmp_path / "in" / ".2.part"
    for path in (old, young):
        path.write_bytes(b"")
    for path in (old, kept):
        os.utime(path, (0, 0))
    assert store.sweep(older_than_s=3600) == 1
    assert kept.exists()
    assert young.exists()
    assert not old.exists()


def test_what_goes_while_old_files_are_looked_for_is_passed_over(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    for name in ("ab/1", "ab/2", "cd/1", "cd/2"):
        store.keep(name, b"DICM")
    names = store.stale(-1)
    first = Path(next(names))
    for folder in {"ab", "cd"} - {first.parent.name}:
        shutil.rmtree(tmp_path / folder)
    for other in {"1", "2"} - {first.name}:
        (tmp_path / first.parent / other).unlink()
    assert list(names) == []


def test_the_kind_of_store_follows_from_its_address(tmp_path: Path) -> None:
    assert isinstance(objects.open_store(str(tmp_path)), LocalObjectStore)
    assert isinstance(objects.open_store("memory://x"), FsspecObjectStore)


def test_a_place_that_cannot_be_reached_is_refused_in_words() -> None:
    with pytest.raises(StoreMismatchError, match="nosuch"):
        FsspecObjectStore("nosuch://bucket")


def test_local_copies_of_remote_films_are_private_and_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_COPIES", 2)
    monkeypatch.setattr(remote, "_COPY_AGE_S", 0.0)
    store = FsspecObjectStore(f"memory://{tmp_path.name}")
    paths = [store.local_path(store.keep(f"{n}", bytes([n]))) for n in range(3)]
    assert [path.exists() for path in paths] == [False, True, True]
    assert stat.S_IMODE(paths[2].parent.stat().st_mode) == 0o700


_COPIES_AND_DIES = """
import os, platform, signal, sys
platform.node = lambda: sys.argv[1]
from storage.objects import FsspecObjectStore
store = FsspecObjectStore("memory://of-the-killed")
print(store.local_path(store.keep("received/film", b"DICM")), flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def copying(host: str, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process of that host, and the copy that it has there until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _COPIES_AND_DIES, host],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    copy = Path(process.stdout.readline().strip())
    assert copy.parent.parent == folder
    return process, copy


def test_copies_that_a_killed_process_left_are_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(remote, "_NEW_S", -1.0)
    (tmp_path / f"{remote._FOLDER}not-ours").symlink_to("elsewhere")
    other, left = copying(platform.node(), tmp_path)
    first = FsspecObjectStore("memory://first")
    assert left.read_bytes() == b"DICM"  # its process lives
    other.communicate()
    second = FsspecObjectStore("memory://second")
    assert not left.parent.exists()
    for store in (first, second):
        assert store.local_path(store.keep("received/film", b"DICM")).read_bytes() == b"DICM"


def test_copies_of_another_host_are_left_to_it_though_its_name_begins_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives, for all that its lock says here: locks do not reach from machine to machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(remote, "_NEW_S", -1.0)
    other, copy = copying(f"{platform.node()}-2", tmp_path)
    other.communicate()
    FsspecObjectStore("memory://ours")
    assert copy.read_bytes() == b"DICM"


@pytest.mark.parametrize("up", [0, 1, 2])
def test_copies_outlive_whoever_tidies_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: int
) -> None:
    """The copies' own, the temporary folder itself, or the one that it is in."""
    place = tmp_path / "of-the-user" / "tmp"
    place.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    store = FsspecObjectStore(f"memory://{tmp_path.name}-tidied")
    ref = store.keep("received/film", b"DICM")
    path = store.local_path(ref)
    shutil.rmtree(path.parents[up])
    assert store.local_path(ref).read_bytes() == b"DICM"
    assert stat.S_IMODE(store.local_path(ref).parent.stat().st_mode) == 0o700


def handles() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_handle_is_left_of_a_folder_that_was_tidied(tmp_path: Path) -> None:
    store = FsspecObjectStore(f"memory://{tmp_path.name}-handles")
    ref = store.keep("received/film", b"DICM")
    path, before = store.local_path(ref), handles()
    for _ in range(3):
        shutil.rmtree(path.parent)
        path = store.local_path(ref)
    assert handles() == before


def test_copies_share_one_folder_and_go_with_it_where_folders_belong_to_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a volume of Kubernetes with fsGroup: what is made there has the setgid bit, too."""
    tmp_path.chmod(0o2770)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = FsspecObjectStore(f"memory://{tmp_path.name}-setgid")
    names = ("received/first", "received/second")
    copies = [store.local_path(store.keep(name, name.encode())) for name in names]
    assert {copy.parent for copy in copies} == {*tmp_path.iterdir()}
    assert stat.S_IMODE(copies[0].parent.stat().st_mode) == 0o2700
    del store
    gc.collect()
    assert [*tmp_path.iterdir()] == []


def test_no_film_goes_into_what_another_put_in_the_folder_s_place(tmp_path: Path) -> None:
    store = FsspecObjectStore(f"memory://{tmp_path.name}-replaced")
    ref = store.keep("received/film", b"DICM")
    folder = store.local_path(ref).parent
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "theirs").touch()
    assert stat.S_IMODE(store.local_path(ref).parent.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    shutil.rmtree(folder)


def test_a_copy_that_cannot_be_made_says_nothing_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecObjectStore(f"memory://{tmp_path.name}-copy")
    ref = store.keep("received/film", b"DICM")

    def gone(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "write_bytes", gone)
    with pytest.raises(StorageError) as said:
        store.local_path(ref)
    assert not isinstance(said.value, ObjectMissingError)


def test_free_space_is_told(store: ObjectStore) -> None:
    assert store.free_bytes() > 0


def test_a_copy_that_waits_for_its_turn_outlives_any_number_of_others(tmp_path: Path) -> None:
    store = objects.FsspecObjectStore(f"memory://{tmp_path.name}-copies")
    first, *others = [store.keep(f"results/{n}.dcm", b"%d" % n) for n in range(100)]
    path = store.local_path(first)
    for other in others:
        store.local_path(other)
    assert path.read_bytes() == b"0"


def test_nothing_is_kept_or_missed_where_the_folder_s_volume_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    opened = LocalObjectStore(root)
    ref = opened.keep("received/film.dcm", b"DICM")
    root.rename(tmp_path / "unmounted")
    for _ in range(2):  # without a folder, and with the mount point's own
        with pytest.raises(ObjectsUnavailableError, match="volume is gone"):
            opened.keep("received/other.dcm", b"DICM")
        for look in (opened.read, opened.local_path, opened.demand, opened.remove):
            with pytest.raises(ObjectsUnavailableError):
                look(ref)
        for whole in (
            opened.free_bytes,
            lambda: opened.sweep(0),
            lambda: [*opened.stale(0)],
            lambda: opened.drop_stale(ref.name, 0),
        ):
            with pytest.raises(ObjectsUnavailableError):
                whole()
        root.mkdir(exist_ok=True)
    assert list(root.rglob("*")) == []
    root.rmdir()
    (tmp_path / "unmounted").rename(root)
    assert opened.read(ref) == b"DICM"


def test_a_store_that_is_opened_while_its_volume_is_gone_takes_no_other_for_it(
    tmp_path: Path,
) -> None:
    root = tmp_path / "objects"
    first = LocalObjectStore(root)
    ref = first.keep("received/film.dcm", b"DICM")
    root.rename(tmp_path / "unmounted")
    opened = LocalObjectStore(root, first.mark)
    assert not root.exists()
    looks = (
        partial(opened.keep, "received/other.dcm", b"DICM"),
        partial(opened.local_path, ref),
        opened.free_bytes,
        partial(opened.sweep, 0),
        partial(opened.drop_stale, "received/stranger.dcm", -1),
        lambda: list(opened.stale(-1)),
    )
    for _ in range(2):  # without a folder, and with another's
        for look in looks:
            with pytest.raises(ObjectsUnavailableError, match="volume is gone, or is another"):
                look()
        if not root.exists():
            LocalObjectStore(root).keep("received/stranger.dcm", b"DICM")
    assert [path.name for path in root.rglob("*.dcm")] == ["stranger.dcm"]


def test_a_volume_that_comes_back_elsewhere_is_the_same(tmp_path: Path) -> None:
    """Copied here, as to another device; its files have other inodes."""
    first = LocalObjectStore(tmp_path / "objects")
    ref = first.keep("received/film.dcm", b"DICM")
    shutil.copytree(tmp_path / "objects", tmp_path / "copy")
    shutil.rmtree(tmp_path / "objects")
    (tmp_path / "copy").rename(tmp_path / "objects")
    assert first.read(ref) == b"DICM"


def test_a_folder_is_marked_once(tmp_path: Path) -> None:
    stores = [LocalObjectStore(tmp_path) for _ in range(2)]
    assert stores[0].mark == stores[1].mark != LocalObjectStore(tmp_path / "other").mark
    assert len(stores[0].mark) == 32


def test_a_store_without_file_handles_is_not_said_to_be_gone(tmp_path: Path) -> None:
    opened = LocalObjectStore(tmp_path)
    ref = opened.keep("film.dcm", b"DICM")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(StorageError, match="Too many open files"):
            opened.local_path(ref)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_that_is_made_anew_or_by_another_is_synced_into_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may not have come so far; each process does it once."""
    opened, synced = LocalObjectStore(tmp_path), []
    (tmp_path / "received/ab").mkdir(parents=True)
    sync = local._sync_folder

    def noted(folder: Path) -> None:
        synced.append(folder)
        sync(folder)

    monkeypatch.setattr(local, "_sync_folder", noted)
    first = opened.keep("received/ab/1.dcm", b"DICM")
    assert set(synced) == {tmp_path / "received/ab", tmp_path / "received", tmp_path}
    synced.clear()
    second = opened.keep("received/ab/2.dcm", b"DICM")
    assert synced == [tmp_path / "received/ab"]
    for ref in (first, second):
        opened.remove(ref)
    (tmp_path / "received/ab").rmdir()  # by whoever tidies empty folders
    synced.clear()
    opened.keep("received/ab/3.dcm", b"DICM")
    assert synced == [tmp_path / "received", tmp_path / "received/ab"]
