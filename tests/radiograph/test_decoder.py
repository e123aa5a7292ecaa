"""A decoder's child may crash, hang or grow; the caller only ever sees a reason."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from pydicom import DataElement, uid

from dicom_node import decoder as decoding
from dicom_node import radiograph
from dicom_node.decoder import BROKE, Decoder
from dicom_node.errors import DecoderError, InputError
from tests.peers import tools
from tests.radiograph import phantom, poor, readers

_MEMORY_BYTES = 256 << 20


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES, reader=readers.misbehave)
    yield decoder
    decoder.close()


@pytest.fixture
def ends_at_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that hung up is not killed while it ends, however long a busy machine takes."""
    monkeypatch.setattr(decoding, "_FAREWELL_S", 60.0)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    ds = phantom.data_set()
    ds.PatientOrientation = ["R", "F"]
    return phantom.write(ds, tmp_path / "film.dcm")


def _refusal(decoder: Decoder, path: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        decoder.read(Path(path))
    return str(caught.value)


def test_a_film_comes_back_as_if_read_here(decoder: Decoder, film: Path) -> None:
    found, expected = decoder.read(film), radiograph.read(film)
    assert found.header == expected.header
    np.testing.assert_array_equal(found.radiograph.pixels, expected.radiograph.pixels)
    found.radiograph.pixels[0, 0] = 0.5  # ours to write


def test_a_child_says_nothing_of_what_is_in_a_header(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ds = phantom.data_set()
    ds["SpecificCharacterSet"] = DataElement(0x00080005, "CS", "DOE^JANE", validation_mode=0)
    film = phantom.write(ds, tmp_path / "film.dcm")
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES)
    decoder.read(film)
    decoder.close()
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("ends_at_leisure")
def test_a_fault_of_ours_is_told_by_where_it_was_without_its_words(
    capfd: pytest.CaptureFixture[str],
) -> None:
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES, reader=readers.misbehave)
    assert "failed with exit code 1" in _refusal(decoder, "bug")
    decoder.close()
    said = capfd.readouterr().err
    assert said.startswith(f"{BROKE}: LookupError\n")
    assert "in misbehave" in said
    assert "bug^JANE" not in said


def test_a_healthy_child_is_kept(decoder: Decoder, film: Path) -> None:
    before = _refusal(decoder, "who")
    decoder.read(film)
    assert _refusal(decoder, "who") == before


def test_the_child_has_no_torch(decoder: Decoder) -> None:
    imported = _refusal(decoder, "imports").split()
    assert "pydicom" in imported
    assert "torch" not in imported


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("bug", "failed with exit code 1"),
        ("greedy", "more than 256 MiB of memory"),
    ],
)
@pytest.mark.usefixtures("ends_at_leisure")
def test_a_child_that_fails_is_named_and_replaced(
    decoder: Decoder, film: Path, name: str, reason: str
) -> None:
    before = _refusal(decoder, "who")
    assert reason in _refusal(decoder, name)
    assert _refusal(decoder, "who") != before
    assert decoder.read(film).radiograph.pixels.shape == (128, 160)


@pytest.mark.parametrize(("how", "said"), [("killed", "SIGKILL"), ("out of time", "SIGXCPU")])
def test_a_child_that_was_killed_is_not_the_images_fault(
    decoder: Decoder, film: Path, how: str, said: str
) -> None:
    with pytest.raises(DecoderError, match=f"killed by {said}"):
        decoder.read(Path(how))
    assert decoder.read(film).radiograph.pixels.shape == (128, 160)


def test_an_idle_child_that_died_costs_no_film(decoder: Decoder, film: Path) -> None:
    pid = int(_refusal(decoder, "who"))
    os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and left for its owner to reap
    assert decoder.read(film).radiograph.pixels.shape == (128, 160)


def test_a_missing_file_is_not_the_images_fault(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decoder.read(tmp_path / "none")


def test_an_answer_that_was_not_awaited_never_meets_the_next_film(
    decoder: Decoder, film: Path
) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError

    decoder.read(film)  # its process runs
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(InterruptedError):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            decoder.read(Path("hangs"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert decoder.read(film).radiograph.pixels.shape == (128, 160)


def test_a_stop_from_outside_is_not_the_images_fault(decoder: Decoder, film: Path) -> None:
    with pytest.raises(ChildProcessError, match="asked to stop"):
        decoder.read(Path("stopped"))
    assert decoder.read(film).radiograph.pixels.shape == (128, 160)


def test_a_child_that_takes_too_long_is_killed() -> None:
    decoder = Decoder(timeout_s=0.2, memory_bytes=_MEMORY_BYTES, reader=readers.misbehave)
    try:
        with pytest.raises(DecoderError, match=r"^Decoding took longer than 0\.2 s\.$"):
            decoder.read(Path("hangs"))
    finally:
        decoder.close()


@pytest.mark.parametrize(
    ("wanting", "said"),
    [
        ("starved", "Cannot allocate memory"),
        ("no thread", "no thread was free"),
        ("no handle", "no file handle was free"),
    ],
)
def test_what_the_machine_lacks_is_no_fault_of_the_film(wanting: str, said: str) -> None:
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES, reader=readers.misbehave)
    try:
        with pytest.raises(OSError, match=said):
            decoder.read(Path(wanting))
    finally:
        decoder.close()


@pytest.mark.peer
@pytest.mark.parametrize(
    ("codec", "spare_mib"), [("rle", 32), ("jpeg", 16), ("jpeg", 32), ("j2k", 24), ("j2k", 32)]
)
def test_a_codec_that_gets_no_memory_is_no_fault_of_the_film(
    tmp_path: Path, codec: str, spare_mib: int
) -> None:
    """It panics, aborts or fails as with a broken film, at 2048 x 2048 pixels and so much memory.

    What is given back where else in the process decides; now and then it is numpy that gets none.
    """
    noise = np.random.default_rng(1).integers(0, 4096, (2048, 2048), np.uint16)
    (folder := tmp_path / str(spare_mib)).mkdir()
    path = _CODED[codec](phantom.data_set(noise), folder)
    decoder = Decoder(timeout_s=60, memory_bytes=2 << 30, reader=readers.starved_at_first)
    try:
        with suppress(OSError):
            decoder.read(path)
        assert path.with_suffix(".starved").exists()
        assert decoder.read(path).radiograph.pixels.shape == noise.shape
    finally:
        decoder.close()


_CODED = {
    "rle": phantom.coding("dcmcrle"),
    "jpeg": phantom.coding("dcmcjpeg", "+e1"),
    "j2k": phantom.coding_j2k(uid.JPEG2000Lossless),
}


def test_a_codec_that_gives_up_where_no_memory_is_free_is_not_believed() -> None:
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES, reader=poor.Starving())
    try:
        with pytest.raises(OSError, match="Cannot allocate memory"):
            decoder.read(Path("film"))
    finally:
        decoder.close()


def test_memory_that_a_limit_from_outside_keeps_from_the_film_is_not_its_fault(
    tmp_path: Path,
) -> None:
    """As a service manager's, or the shell's; the film's own share is larger."""
    stored = np.tile(np.arange(2048, dtype=np.uint16), (2048, 1))
    path = phantom.write(phantom.data_set(stored), tmp_path / "film.dcm")
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES, reader=poor.Limited(16))
    try:
        with pytest.raises(OSError, match=r"less memory than work\.decode_memory_mb"):
            decoder.read(path)
    finally:
        decoder.close()


def test_a_limit_of_processor_time_from_outside_is_kept() -> None:
    """Only who may raise limits could raise it, and nobody is to."""
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES, reader=poor.Timed(20))
    try:
        soft, hard = _refusal(decoder, "film").split()
        assert int(soft) == int(hard) == 20  # less than a film has
    finally:
        decoder.close()


@pytest.mark.parametrize("name", ["hangs", "spins"])
def test_a_film_that_takes_too_long_ends_though_its_worker_was_killed(name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, name], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        worker.kill()
        tools.wait_until(lambda: not Path(f"/proc/{child}").exists(), 180, "the decoder to end")


_WORKER = """
import sys, threading
from pathlib import Path
from dicom_node.decoder import BROKE, Decoder
from dicom_node.errors import InputError
from tests.radiograph import readers

if __name__ == "__main__":
    decoder = Decoder(timeout_s=1, memory_bytes=256 << 20, reader=readers.misbehave)
    decoder._living_child()
    decoder._timeout_s = 600  # of the worker, which is to be killed before
    try:
        decoder.read(Path("who"))
    except InputError as fault:
        threading.Timer(0.5, print, [fault], {"flush": True}).start()
    decoder.read(Path(sys.argv[1]))
"""


def test_a_start_without_a_thread_leaves_no_word_that_is_taken_for_the_next_film(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES)
    try:
        with monkeypatch.context() as short:
            short.setattr(threading.Timer, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                decoder.read(film)
        found, expected = decoder.read(film), radiograph.read(film)
        np.testing.assert_array_equal(found.radiograph.pixels, expected.radiograph.pixels)
    finally:
        decoder.close()


def test_a_film_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    stored = np.tile(np.arange(2048, dtype=np.uint16), (2048, 1))
    path = phantom.write(phantom.data_set(stored), tmp_path / "film.dcm")
    decoder = Decoder(timeout_s=30, memory_bytes=16 << 20)
    try:
        assert "more than 16 MiB of memory" in _refusal(decoder, path)
    finally:
        decoder.close()


class _BreaksOff:
    """A connection that takes an answer, and then has no room for its pixels."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, answer: object) -> None:
        self.sent.append(answer)

    def send_bytes(self, _: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")


def test_nothing_is_said_after_half_an_answer(film: Path) -> None:
    """It would be taken for the pixels."""
    pipe = _BreaksOff()
    asked = decoding._Asked(path=film, with_memory=False)
    share = decoding._Share(wanted_bytes=_MEMORY_BYTES, is_cut=False)
    with pytest.raises(OSError, match="buffer"):
        decoding._answer(cast(Connection, pipe), radiograph.read, asked, share)
    assert len(pipe.sent) == 1


def test_an_answer_that_cannot_be_said_is_the_machine_s_trouble() -> None:
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES, reader=poor.unsaid)
    try:
        with pytest.raises(ChildProcessError, match="could not say"):
            decoder.read(Path("film"))
    finally:
        decoder.close()


def test_a_closed_decoder_starts_again(film: Path) -> None:
    decoder = Decoder(timeout_s=30, memory_bytes=_MEMORY_BYTES)
    decoder.close()
    try:
        assert decoder.read(film).radiograph.pixels.shape == (128, 160)
    finally:
        decoder.close()
    decoder.close()


def test_where_the_system_does_not_say_what_is_mapped_only_core_dumps_are_limited() -> None:
    said = (
        "import resource; from pathlib import Path; from dicom_node import decoder\n"
        "before = resource.getrlimit(resource.RLIMIT_AS)\n"
        "decoder._MAPPED = Path('/nowhere'); decoder._limit(1)\n"
        "print(resource.getrlimit(resource.RLIMIT_AS) == before,"
        " resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True (0, 0)"
