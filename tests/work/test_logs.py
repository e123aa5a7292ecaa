"""The log: one event a line, whoever speaks, and nobody's words that might name a patient."""

import json
import logging
import os
import subprocess
import sys
import threading

import pytest
import structlog

from dicom_node import logs

pytestmark = pytest.mark.usefixtures("own_log")
_SECRET = "Phantom^Ada"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_librarys_record_is_a_line_of_ours_without_its_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", "json")
    logging.getLogger("somebody").warning("cannot read %s", _SECRET)
    (line,) = lines(capsys)
    assert line["event"] == "cannot read %s"
    assert line["library"] == "somebody"
    assert _SECRET not in json.dumps(line)


def test_a_librarys_traceback_is_its_type_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")
    try:
        int(_SECRET)
    except ValueError:
        logging.getLogger("somebody").exception("failed")
    (line,) = lines(capsys)
    assert line["exception"] == "ValueError"
    assert _SECRET not in json.dumps(line)


def test_what_peers_make_pynetdicom_say_is_not_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", "json")
    logging.getLogger("pynetdicom.acse").error("\x1b[31m %s", _SECRET)
    assert lines(capsys) == []


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_terminal_obeys_nothing_that_a_peer_says(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    logs.configure("INFO", form)
    structlog.get_logger().warning("refused", sop_instance_uid="\x1b]0;owned\x07\x9b31m1.2")
    logging.getLogger("somebody").warning("\x1b]0;owned\x07")
    refused, library = capsys.readouterr().err.splitlines()
    assert not {"\x1b", "\x07", "\x9b", "\\"} & {*refused, *library}
    assert "]0;owned31m1.2" in refused
    assert "]0;owned" in library


class _Unsayable:
    def __str__(self) -> str:
        raise LookupError(_SECRET)

    __repr__ = __str__


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_event_with_a_value_that_cannot_be_written_is_said_by_its_name(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """Also where the value is bound to whoever speaks."""
    logs.configure("INFO", form)
    structlog.get_logger().error("job failed", job=_Unsayable())
    structlog.get_logger().bind(job=_Unsayable()).error("job failed")
    said = capsys.readouterr().err
    assert [said.count(word) for word in ("job failed", "LookupError", _SECRET)] == [2, 2, 0]


def test_after_an_event_that_cannot_be_written_what_is_bound_is_said_still(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", "json")
    log = structlog.get_logger().bind(job="abc")
    log.info("one", value=_Unsayable())
    log.error("job failed")
    first, second = lines(capsys)
    assert (first["event"], first["unsaid"], "job" in first) == ("one", "LookupError", False)
    assert (second["event"], second["job"]) == ("job failed", "abc")


@pytest.mark.parametrize("name", ["method", "method_name"])
def test_a_value_of_whatever_name_raises_nothing(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    logs.configure("INFO", "json")
    structlog.get_logger().info("one", **{name: "GET"})
    (line,) = lines(capsys)
    assert line["event"] == "one"


def test_a_thread_that_dies_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")

    def dies() -> None:
        raise KeyError(_SECRET)

    thread = threading.Thread(target=dies, name="reader")
    thread.start()
    thread.join()
    (line,) = lines(capsys)
    assert (line["event"], line["thread"], line["exception"]) == (
        "thread died",
        "reader",
        "KeyError",
    )
    assert _SECRET not in json.dumps(line)


_SPEAKING = """
import logging, structlog
from pathlib import Path
from dicom_node import logs
from dicom_node.decoder import Decoder

logs.configure("INFO", "json")
for _ in range(3):
    structlog.get_logger().error("said", words="x" * 100_000)
    logging.getLogger("somebody").error("said")
decoder = Decoder(timeout_s=30, memory_bytes=256 << 20)
try:
    decoder.read(Path("no film"))
except OSError as fault:
    print(fault)
decoder.close()
print("goes on")
"""


@pytest.mark.parametrize("reader", ["a full disk", "nobody"])
def test_a_log_that_cannot_be_written_ends_nothing(reader: str) -> None:
    """Whoever speaks is a worker, a tick, the receiver; and processes are started as before."""
    if reader == "nobody":
        gone, log = os.pipe()
        os.close(gone)
    else:
        log = os.open("/dev/full", os.O_WRONLY)
    try:
        command = [sys.executable, "-c", _SPEAKING]
        # Where Python buffers, what could not be written stays in the buffer.
        there = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=log, env=there, text=True, check=False
        )
    finally:
        os.close(log)
    assert done.stdout == "[Errno 2] No such file or directory: 'no film'\ngoes on\n"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_process_without_a_standard_error_goes_on(form: str) -> None:
    """As started by `2>&-`."""
    speaking = _SPEAKING.replace('"json"', f'"{form}"')
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, speaking]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout.endswith("goes on\n")
    assert done.returncode == 0
