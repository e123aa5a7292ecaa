"""How the command ends where something went wrong."""

import errno
import os

import pytest

from dicom_node import cli


def ends(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The command, as the operating system tells it of a fault with a file."""

    def fail() -> None:
        raise OSError(number, os.strerror(number), "there.bin")

    monkeypatch.setattr(cli, "app", fail)
    cli.main()


def test_a_disk_that_is_full_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        ends(monkeypatch, errno.ENOSPC)
    said = "vald-node: there.bin: No space left on device; make room, then run it again\n"
    assert capsys.readouterr().err == said


def test_a_fault_without_an_owner_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        ends(monkeypatch, errno.ENOENT)
