"""Processes that meet in one folder: the second run is refused, and no file is half another's."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.training import files, locks
from pipeline.training.locks import InUseError
from tests.conftest import REPOSITORY

_SAVE = """
import sys
from pathlib import Path
from pipeline.training import files
print("ready", flush=True)
sys.stdin.readline()
for _ in range(300):
    with files.whole(Path(sys.argv[1])) as scratch:
        scratch.write_bytes(b"x" * 1000)
"""


def test_a_folder_is_held_by_one_until_its_end_and_another_is_told_by_whom(tmp_path: Path) -> None:
    folder = tmp_path / "segmenter"
    with locks.held(folder), locks.held(tmp_path / "autoencoder"):
        with pytest.raises(InUseError, match=rf"{folder}: another process \({os.getpid()}\)"):
            locks.held(folder).__enter__()
        with pytest.raises(InUseError, match="then run the command again, or give another folder"):
            locks.held(folder).__enter__()  # nor has the one before taken it
    with locks.held(folder):
        pass
    assert not list(tmp_path.iterdir())


def test_two_links_to_one_folder_are_one_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    links = [tmp_path / name / "diffusion" for name in ("one", "other")]
    for link in links:
        link.parent.mkdir()
        link.symlink_to(tmp_path / "disk" / "diffusion")
    with locks.held(links[0]), pytest.raises(InUseError, match=rf"{links[1]}: another process"):
        locks.held(links[1]).__enter__()


def test_a_link_to_where_no_lock_may_be_made_is_held_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, link = tmp_path / "mount", tmp_path / "work" / "diffusion"
    (mount / "own").mkdir(parents=True)
    link.parent.mkdir()
    link.symlink_to(mount / "own")
    whole = os.access
    monkeypatch.setattr(  # root may write everywhere
        os, "access", lambda path, mode: path != mount and whole(path, mode)
    )
    with locks.held(link), pytest.raises(InUseError, match=rf"{link}: another process"):
        assert [found.name for found in mount.iterdir()] == ["own"]
        locks.held(link).__enter__()


def test_a_lock_whose_file_was_taken_away_meanwhile_is_asked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lock = tmp_path / "segmenter", tmp_path / ".segmenter.lock"
    whole, opened = os.open, list[Path]()

    def once_taken_away(path: Path, *more: int) -> int:
        file = whole(path, *more)
        if not opened:
            path.unlink()
        opened.append(path)
        return file

    monkeypatch.setattr(os, "open", once_taken_away)
    with locks.held(folder):
        assert opened == [lock, lock]
        with pytest.raises(InUseError):
            locks.held(folder).__enter__()


def test_another_users_lock_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # root may open everything
    with pytest.raises(InUseError, match=r"\.segmenter\.lock: may not be opened, as another user"):
        locks.held(tmp_path / "segmenter").__enter__()


def test_two_processes_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _SAVE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]
    assert [found.name for found in tmp_path.iterdir()] == ["a.bin"]


def test_what_a_killed_process_was_writing_is_taken_away_and_what_another_is_stays(
    tmp_path: Path,
) -> None:
    host = socket.gethostname().replace(".", "_")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    live, stale = f"a.bin.{host}-{os.getppid()}.part", f"a.bin.{host}-{gone.pid}.part"
    far, old = "a.bin.elsewhere-1.part", "a.bin.elsewhere-2.part"
    for name in (live, stale, far, old, "a.bin.part", "b.bin.part"):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (0, 0))
    with files.whole(tmp_path / "a.bin") as scratch:
        scratch.touch()
    kept = {found.name for found in tmp_path.iterdir()}
    assert kept == {"a.bin", live, far, "b.bin.part"}
