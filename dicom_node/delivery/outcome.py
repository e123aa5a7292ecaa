"""What an answer, or its absence, means for a result on its way.

| what the destination does                         | is                                          |
|---------------------------------------------------|---------------------------------------------|
| 0000                                              | delivered                                   |
| 0001, Bxxx, 0107, 0116: warnings                  | delivered, with a note                      |
| 0111: duplicate SOP instance                      | delivered: only we make this UID            |
| A7xx, 0110, 0210, 0213, FE00, any other status    | postponed: its moment's                     |
| no connection, no answer, abort, rejected for now | postponed: its moment's                     |
| rejected for good, 0124: AE title not known there | postponed, slowly: administrators repair it |
| A9xx, Cxxx, 0122, 0117, 0211 and other statuses   | refused: this result is not taken           |
|   that blame the request                          |                                             |
| no presentation context accepted                  | refused: this class is not taken            |

Codes: PS3.4 table B.2-1 and PS3.7 annex C. What is postponed is tried for as long as it takes:
none of those answers says anything about the result.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from pipeline import shortage

Beginning = Callable[[], bool]
"""Called before each object of a batch, and each piece of a long one that is sent so.

Whoever waits sees that it goes on, and whether the next object may.
"""


def nobody() -> bool:
    """Nobody waits: it may."""
    return True


class Fate(Enum):
    """What becomes of a result that was to be sent."""

    DELIVERED = auto()
    POSTPONED = auto()
    """For the moment's reasons: with a growing delay."""
    POSTPONED_SLOWLY = auto()
    """For a reason that only people remove: with the longest delay."""
    REFUSED = auto()
    UNSENT = auto()
    """The association ended before its turn; nothing speaks against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one result, and why; no patient data, though peers choose their comments.

    `status` is the answer as `storage.jobs.Delivery` keeps it; empty where there was none. Where
    the destination was not asked for reasons of ours it is FILE or STUDY.
    """

    fate: Fate
    reason: str = ""
    status: str = ""


_SUCCESS, _DUPLICATE_SOP_INSTANCE, _NOT_AUTHORISED = 0x0000, 0x0111, 0x0124
_NOTES = {
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
    _DUPLICATE_SOP_INSTANCE: "it has this instance already",
    0x0001: "requested optional attributes are not supported",
    0x0107: "attribute list error",
    0x0116: "attribute value out of range",
}
_BLAMES = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0112: "no such SOP instance",
    0x0115: "invalid argument value",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0122: "SOP class not supported",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}


def unforeseen(fault: Exception) -> Outcome:
    """What nobody foresaw, unless it is what this machine lacks for now."""
    if what := shortage.lacking(fault):
        return Outcome(fate=Fate.POSTPONED, reason=what, status="FILE")
    reason = f"{type(fault).__name__}: see the log"
    return Outcome(fate=Fate.POSTPONED_SLOWLY, reason=reason)


def of_status(status: int, comment: str = "") -> Outcome:
    """What a C-STORE-RSP with this status and Error Comment means."""
    code, said = f"{status:04X}", f": {comment}" if comment else ""
    if status == _SUCCESS:
        return Outcome(fate=Fate.DELIVERED, status=code)
    fate, words = _read(status)
    return Outcome(fate=fate, reason=f"{words} ({code}){said}", status=code)


def of_failure(status: int) -> Outcome:
    """What a Failure Reason (PS3.18 table 10.5.3-1) with this status means of what was sent.

    The instance is said to have failed, whatever else is said; but one that is there is there.
    """
    said = of_status(status)
    if said.fate is not Fate.DELIVERED or status == _DUPLICATE_SOP_INSTANCE:
        return said
    words = f"it failed, by a code that does not say so ({status:04X})"
    return replace(said, fate=Fate.POSTPONED, reason=words)


def _read(status: int) -> tuple[Fate, str]:
    """The fate by a status that is no plain success, and its words."""
    if status in _NOTES or status >> 12 == 0xB:
        return Fate.DELIVERED, _NOTES.get(status, "warning")
    if status == _NOT_AUTHORISED:
        return Fate.POSTPONED_SLOWLY, "we are not authorised there"
    if status in _BLAMES or status >> 8 == 0xA9 or status >> 12 == 0xC:
        return Fate.REFUSED, _blame(status)
    return Fate.POSTPONED, _trouble(status)


def of_rejection(result: int, source: int, diagnostic: int) -> Outcome:
    """What an A-ASSOCIATE-RJ means (PS3.8 table 9-21)."""
    why = _REJECTIONS.get((source, diagnostic), "no reason given")
    code = f"RJ {result} {source} {diagnostic}"
    if result == _PERMANENT:
        reason = f"association rejected for good: {why}; repair it here or there"
        return Outcome(fate=Fate.POSTPONED_SLOWLY, reason=reason, status=code)
    reason = f"association rejected for now: {why}"
    return Outcome(fate=Fate.POSTPONED, reason=reason, status=code)


_PERMANENT = 1
_REJECTIONS = {
    (1, 2): "application context name not supported",
    (1, 3): "our AE title is not recognised",
    (1, 7): "its AE title is not the one we call",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "too many associations",
}


def _blame(status: int) -> str:
    if status >> 8 == 0xA9:
        return "data set does not match SOP class"
    return _BLAMES.get(status, "cannot understand")


def _trouble(status: int) -> str:
    return "out of resources" if status >> 8 == 0xA7 else "it failed"
