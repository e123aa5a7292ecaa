"""What the evidence calls lost or doubled, and that it names the film and its states."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.evidence import Evidence
from tests.faults.modalities import ROOM, WARD, Sent


def line(*places: str, state: str = "COMMITTED") -> dict[str, Any]:
    """Film 1.1's job, with its two results for each of these destinations."""
    deliveries = [
        {"sop_instance_uid": uid, "destination": place}
        for place in places
        for uid in ("2.25.1", "2.25.2")
    ]
    return {"source_sop_instance_uid": "1.1", "state": state, "deliveries": deliveries}


BOTH = Counter({("2.25.1", "picture"): 1, ("2.25.2", "report"): 1})
RIGHT = Evidence(
    told={Sent("1.1", ROOM): True, Sent("1.1", WARD): False, Sent("1.2", ROOM): False},
    lines=[line("pacs")],
    made={"2.25.1": "picture", "2.25.2": "report"},
    held={"pacs": BOTH, "archive": Counter()},
)
"""1.1 was answered success in the room alone, 1.2 never."""


@pytest.mark.parametrize(
    "evidence",
    [
        RIGHT,
        replace(RIGHT, lines=[line("pacs", "archive")], held={"pacs": BOTH, "archive": BOTH}),
    ],
)
def test_what_nobody_was_told_of_may_be_there_or_not(evidence: Evidence) -> None:
    assert list(evidence.faults()) == []


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (replace(RIGHT, lines=[]), "1.1 goes to [], not to ['pacs']"),
        (replace(RIGHT, lines=[line("pacs"), line("pacs")]), "1.1 has two jobs"),
        (replace(RIGHT, lines=[line("pacs", state="PRODUCED")]), "1.1 is not complete"),
        (replace(RIGHT, told={Sent("1.1", WARD): True}), "not to ['archive']"),
        (replace(RIGHT, lines=[line("pacs", "pacs")]), "in these numbers: {'pacs': 4}"),
        (replace(RIGHT, held={"pacs": Counter()}), "not each result once, as it was made"),
        (replace(RIGHT, held={"pacs": BOTH + BOTH}), "not each result once, as it was made"),
        (replace(RIGHT, made={"2.25.1": "other", "2.25.2": "report"}), "as it was made, in"),
        (replace(RIGHT, held={"pacs": BOTH, "archive": BOTH}), "archive has 2.25.1, which no"),
    ],
)
def test_what_is_lost_or_doubled_is_named(evidence: Evidence, words: str) -> None:
    assert words in next(iter(evidence.faults()))


def test_a_film_is_named_with_what_its_senders_were_told_and_its_states() -> None:
    open_still = line("pacs", state="PRODUCED")
    (fault,) = replace(RIGHT, lines=[open_still]).faults()
    assert fault.startswith("1.1 is not complete; told success: {'ROOM': True, 'WARD': False};")
    assert str(open_still) in fault
