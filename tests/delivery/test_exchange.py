"""What counts as the answer to a request: one of its kind, to it, and about its instance."""

import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_STORE, N_ACTION

from dicom_node.delivery.outcome import Fate
from dicom_node.delivery.query import Series
from dicom_node.errors import TransientError
from tests.delivery import pacs
from tests.delivery.pacs import Pacs
from tests.delivery.test_commitment import Bench as CommitmentBench
from tests.delivery.test_scu import SCU, at, files

Says = Callable[[Any], None]
_FINDER = SCU.finder()


@pytest.fixture
def peer() -> Iterator[Pacs]:
    with pacs.running(commitment=True) as running:
        yield running


def say(event: Any, kind: type, *, status: int = 0x0000, to: int = 0, uid: str = "") -> None:
    """An answer of that kind goes to the peer: to the request, or to another's Message ID."""
    answer = kind()
    answer.MessageIDBeingRespondedTo = to or event.request.MessageID
    answer.AffectedSOPClassUID = event.context.abstract_syntax
    answer.Status = status
    if uid:
        answer.AffectedSOPInstanceUID = uid
    event.assoc.dimse.send_msg(answer, event.context.context_id)


def once(says: Says) -> Says:
    """It is said at the first request alone."""
    left = [says]
    return lambda event: left.pop()(event) if left else None


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (lambda e: say(e, C_STORE, status=0xFF00), "C-STORE was answered with FF00, pending"),
        (lambda e: say(e, C_ECHO), "C-ECHO came, and is no answer to C-STORE"),
        (
            lambda e: say(e, C_STORE, to=77),
            "an answer to message 77 came, and 1 was to be answered",
        ),
        (lambda e: say(e, C_STORE, uid="9.9"), "C-STORE was answered for another instance"),
    ],
)
def test_what_is_no_answer_to_a_store_ends_the_association_and_says_why(
    peer: Pacs, tmp_path: Path, says: Says, words: str
) -> None:
    peer.says_first, peer.answers = once(says), [0xA700]
    with structlog.testing.capture_logs() as log:
        said = SCU.send(at(peer.port), files(tmp_path, "1.1", "1.2"), 60)
    assert [one.fate for one in said] == [Fate.POSTPONED, Fate.UNSENT]
    ended = [line for line in log if line["event"] == "association ended"]
    assert [(line["reason"], line["ae_title"]) for line in ended] == [(words, "PACS")]


def test_an_answer_that_is_said_twice_is_not_that_of_the_next(peer: Pacs, tmp_path: Path) -> None:
    """It stored the first, and would refuse what comes then."""
    peer.says_first, peer.answers = once(lambda e: say(e, C_STORE)), [0x0000, 0xA700, 0xA700]
    said = SCU.send(at(peer.port), files(tmp_path, "1.1", "1.2", "1.3"), 60)
    assert said[0].fate is Fate.DELIVERED
    assert {one.fate for one in said[1:]} <= {Fate.POSTPONED, Fate.UNSENT}
    assert all(one.status == "" for one in said[1:])


def test_an_answer_for_this_instance_counts_however_its_uid_is_padded(
    peer: Pacs, tmp_path: Path
) -> None:
    def padded(event: Any) -> None:
        say(event, C_STORE, status=0xB000, uid="1.1\0")
        event.assoc.abort()

    peer.says_first = padded
    said = SCU.send(at(peer.port), files(tmp_path, "1.1"), 60)
    assert [(one.fate, one.status) for one in said] == [(Fate.DELIVERED, "B000")]


@pytest.mark.parametrize("kind", [C_STORE, C_FIND])
def test_an_echo_is_answered_by_an_echo(peer: Pacs, kind: type) -> None:
    peer.says_first = lambda event: say(event, kind)
    assert SCU.echo(at(peer.port)) == "C-ECHO is not answered with success"
    peer.says_first = lambda _: None
    assert SCU.echo(at(peer.port)) == ""


def test_a_final_answer_to_one_question_is_not_that_to_the_next(peer: Pacs) -> None:
    """Else what is there is not found, and sent again."""
    wanted = {
        Series(study_instance_uid="1.2", series_instance_uid=series): [f"{series}.1"]
        for series in ("5", "6", "7")
    }
    peer.holds = ["5.1", "6.1", "7.1"]
    assert _FINDER.instances(at(peer.port), wanted) == {"5.1", "6.1", "7.1"}
    peer.says_first = once(lambda event: say(event, C_FIND))
    with pytest.raises(TransientError):
        _FINDER.instances(at(peer.port), wanted)


@pytest.mark.parametrize(
    "says",
    [
        lambda event: say(event, C_ECHO),
        lambda event: say(event, N_ACTION, to=77),
        lambda event: say(event, N_ACTION, status=0xFF00),
        lambda event: say(event, N_ACTION, uid="9.9"),
    ],
)
def test_what_is_no_answer_to_a_request_for_commitment_has_it_asked_again(
    peer: Pacs, tmp_path: Path, says: Says
) -> None:
    bench = CommitmentBench(tmp_path, peer)
    bench.deliver()
    peer.says_first = says
    bench.ask()
    bench.scp.stop()
    assert bench.reasons() == {
        "commitment not asked: no answer: the association ended or timed out"
    }
    assert set(bench.states().values()) == {"DELIVERED"}


def pdv(event: Any, size_bytes: int, *, is_command: bool) -> bytes:
    """A P-DATA-TF PDU with one fragment, not the last of its command or data set (PS3.8 9.3.5)."""
    body = struct.pack(">LBB", size_bytes + 2, event.context.context_id, is_command)
    body += bytes(size_bytes)
    return struct.pack(">BBL", 4, 0, len(body)) + body


@contextmanager
def bounded_memory(most_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("pieces", "is_command", "words"),
    [(30, False, "answer too large"), (1, True, "command set too large")],
)
def test_an_answer_without_end_ends_the_association(
    peer: Pacs, tmp_path: Path, pieces: int, is_command: bool, words: str
) -> None:
    def endless(event: Any) -> None:
        connection = event.assoc.dul.socket.socket  # which it forgets once it is aborted
        with suppress(OSError):
            for _ in range(pieces):
                connection.sendall(pdv(event, (1 << 20) - 100, is_command=is_command))
        peer.done.wait(10)

    peer.says_first = endless
    began = time.monotonic()
    with structlog.testing.capture_logs() as log, bounded_memory(40 << 20):
        said = SCU.send(at(peer.port), files(tmp_path, "1.1", "1.2"), 60)
        assert time.monotonic() - began < 8  # it is waited for ten seconds
        with pytest.raises(TransientError):
            SCU.finder().study(at(peer.port), "1.2.3")
    assert [one.fate for one in said] == [Fate.POSTPONED, Fate.UNSENT]
    reasons = [line["reason"] for line in log if line["event"] == "association ended"]
    assert reasons == [words] * 2


def test_answers_to_each_request_have_the_whole_size(peer: Pacs) -> None:
    """Several long ones on one association are no fault."""
    wanted = {
        Series(study_instance_uid="1.2", series_instance_uid=series): [f"{series}.1"]
        for series in ("5", "6")
    }
    peer.holds = ["5.1", "6.1", *["9.9"] * 4]
    peer.padding = 900_000
    assert SCU.finder().instances(at(peer.port), wanted) == {"5.1", "6.1"}
