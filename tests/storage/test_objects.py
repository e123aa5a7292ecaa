"""Objects are kept whole or not at all."""

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from storage import objects
from storage.errors import ObjectMissingError, OutOfSpaceError
from storage.objects import FsspecObjectStore, LocalObjectStore, MemoryObjectStore, ObjectStore


@pytest.fixture(params=["local", "fsspec", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return LocalObjectStore(tmp_path / "objects")
    if request.param == "fsspec":
        return FsspecObjectStore(f"memory://{tmp_path.name}")
    return MemoryObjectStore(tmp_path)


def test_what_was_kept_is_read_back_with_its_digest(store: ObjectStore) -> None:
    ref = store.keep("received/ab/film.dcm", b"DICM")
    assert (ref.name, ref.size_bytes) == ("received/ab/film.dcm", 4)
    assert ref.digest == hashlib.sha256(b"DICM").hexdigest()
    assert store.read(ref) == b"DICM"
    assert store.local_path(ref).read_bytes() == b"DICM"


def test_chunks_are_joined(store: ObjectStore) -> None:
    assert store.read(store.keep("x", [b"ab", bytearray(b"c")])) == b"abc"


def test_keeping_the_same_again_is_the_same(store: ObjectStore) -> None:
    assert store.keep("x", b"one") == store.keep("x", b"one")


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    ref = objects._ref("gone", b"")
    with pytest.raises(ObjectMissingError, match="gone"):
        store.read(ref)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\0b"])
def test_a_name_cannot_leave_the_store(store: ObjectStore, name: str) -> None:
    with pytest.raises(ValueError, match="plain relative path"):
        store.keep(name, b"")


def test_a_damaged_object_is_not_given_out(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    ref = store.keep("x", b"good")
    (tmp_path / "x").write_bytes(b"baad")
    with pytest.raises(ObjectMissingError, match="damaged"):
        store.read(ref)


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
    assert list(tmp_path.iterdir()) == []


def test_unfinished_files_are_swept_once_they_are_old(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    old, young = tmp_path / "a.1.part", tmp_path / "b.2.part"
    for path in (old, young):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    assert store.sweep(older_than_s=3600) == 1
    assert young.exists()
    assert not old.exists()


def test_the_kind_of_store_follows_from_its_address(tmp_path: Path) -> None:
    assert isinstance(objects.open_store(str(tmp_path)), LocalObjectStore)
    assert isinstance(objects.open_store("memory://x"), FsspecObjectStore)
