"""What a DICOMweb server says of an instance that it was sent: Store Instances Response.

PS3.18 10.5.3: DICOM JSON (annex F) or Native DICOM Model (PS3.19 A.1). Only what is about the
instance is read: whatever else is in an answer may be as it likes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import requests

from dicom_node import attributes
from dicom_node.delivery import dicomjson, outcome
from dicom_node.delivery.outcome import Fate, Outcome

_REDIRECTIONS, _BLAMES, _CONFLICT = 300, 400, 409
_PROCESSING_FAILURE = 0x0110  # PS3.7 annex C
_REFUSED = {400, 406, 411, 413, 415, 422}
_FOR_PEOPLE = {401, 403, 404, 405, 407, 410, 501, 505}
_STORED, _WARNING_REASON = "00081199", "00081196"  # PS3.18 table 10.5.3-1
_FAILED, _FAILURE_REASON = "00081198", "00081197"
_SOP_INSTANCE_UID = "00081155"
_WORD_CHARS = 100
_UNREADABLE = (requests.RequestException, ElementTree.ParseError, *attributes.UNREADABLE)

_Values = Callable[[Any, str], list[Any]]
"""The values of the attribute of that tag, of a data set or item; none where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One of a Referenced or Failed SOP Sequence: of which instances, and its reason."""

    uids: tuple[str, ...]
    reason: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What is said of one instance, first; `trouble` says why an answer could not be read."""

    stored: _Item | None = None
    failed: _Item | None = None
    nameless: _Item | None = None
    """That something failed, whatever it is."""
    trouble: str = ""


def outcome_of(response: Any, uid: str, trouble: str = "") -> Outcome:
    """What the answer, of requests, means of the instance; `trouble` is why it did not come whole.

    What is said of this instance comes before what is said of one without a name; what is said of
    others is not of it.
    """
    status = response.status_code
    code = f"HTTP {status}"
    if status >= _REDIRECTIONS and status != _CONFLICT:
        return Outcome(fate=_fate(status), reason=f"the server answers {code}", status=code)
    said = _Said(trouble=trouble) if trouble else _read(response, uid)
    if failed := said.failed or (None if said.stored else said.nameless):
        meant = outcome.of_failure(_PROCESSING_FAILURE if failed.reason is None else failed.reason)
        return Outcome(fate=meant.fate, reason=f"{meant.reason} ({code})", status=code)
    if said.stored:
        note = said.stored.reason
        words = "" if note is None else outcome.of_status(note).reason
        return Outcome(fate=Fate.DELIVERED, reason=words, status=code)
    unread = f", which cannot be read: {said.trouble}" if said.trouble else ""
    if status == _CONFLICT:
        return Outcome(fate=Fate.REFUSED, reason=f"the server answers {code}{unread}", status=code)
    silent = unread or ", but does not say that it has stored this instance"
    return Outcome(fate=Fate.POSTPONED, reason=f"the server answers {code}{silent}", status=code)


def _fate(status: int) -> Fate:
    if status in _REFUSED:
        return Fate.REFUSED
    slow = status in _FOR_PEOPLE or status < _BLAMES
    return Fate.POSTPONED_SLOWLY if slow else Fate.POSTPONED


def _read(response: Any, uid: str) -> _Said:
    """What the payload says of the instance, in JSON or XML, however its media type is written."""
    if not response.content:
        return _Said()
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    try:
        if media_type.endswith("xml"):
            return _said(_model(response.content), _xml_values, uid)
        return _said(_data_set(response.json()), _json_values, uid)
    except _UNREADABLE as fault:
        word = f"{type(fault).__name__}: {fault}"[:_WORD_CHARS]
        return _Said(trouble=f"{media_type[:_WORD_CHARS] or 'no media type'}, {word}")


class _Plain(ElementTree.TreeBuilder):
    """Of XML without a document type, which alone may define entities that have no end."""

    def doctype(self, *_: Any) -> None:
        """Raises ValueError."""
        raise ValueError("it has a document type")


def _model(payload: bytes) -> Any:
    """The Native DICOM Model of that XML. Raises ValueError, ParseError."""
    parser = ElementTree.XMLParser(target=_Plain())  # noqa: S314 - see _Plain
    root = ElementTree.fromstring(payload, parser)  # noqa: S314
    if not root.tag.endswith("NativeDicomModel"):
        raise ValueError("not a Native DICOM Model")
    return root


def _data_set(payload: Any) -> dict[str, Any]:
    """The data set of that JSON, alone or, as servers answer searches, in a list. ValueError."""
    match payload:
        case dict(found) | [dict(found)]:
            return found
    raise ValueError("not one data set")


def _said(root: Any, values: _Values, uid: str) -> _Said:
    def first(tag: str, reason_tag: str, is_meant: Callable[[_Item], bool]) -> _Item | None:
        return next(filter(is_meant, _items(root, values, tag, reason_tag)), None)

    return _Said(
        stored=first(_STORED, _WARNING_REASON, lambda item: uid in item.uids),
        failed=first(_FAILED, _FAILURE_REASON, lambda item: uid in item.uids),
        nameless=first(_FAILED, _FAILURE_REASON, lambda item: not any(item.uids)),
    )


def _items(root: Any, values: _Values, tag: str, reason_tag: str) -> Iterator[_Item]:
    for item in values(root, tag):
        uids = tuple(map(dicomjson.unpadded, values(item, _SOP_INSTANCE_UID)))
        reasons = values(item, reason_tag)
        yield _Item(uids=uids, reason=_integer(reasons[0]) if reasons else None)


def _json_values(item: Any, tag: str) -> list[Any]:
    """PS3.18 F.2."""
    attribute = item.get(tag) if isinstance(item, dict) else None
    found = attribute.get("Value") if isinstance(attribute, dict) else None
    return [one for one in found if one is not None] if isinstance(found, list) else []


def _xml_values(item: Any, tag: str) -> list[Any]:
    """PS3.19 A.1.5: its items, or the texts of its values; with or without the name space."""
    found = item.findall(f"{{*}}DicomAttribute[@tag='{tag}']")
    children = [child for attribute in found for child in attribute]
    is_item = [child.tag.endswith("Item") for child in children]
    return [one if item else one.text or "" for one, item in zip(children, is_item, strict=True)]


def _integer(value: Any) -> int | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
