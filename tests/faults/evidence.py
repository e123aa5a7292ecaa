"""What became of each film, by its senders, by the node's rows and files, and by the archives."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.faults.modalities import GOES_TO, Sent

COMPLETE = "COMMITTED"
_RESULTS = 2
"""Of each film: a Secondary Capture and a Structured Report."""
Held = Counter[tuple[str, str]]
"""How often an archive has an object of this SOP Instance UID and of this content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Once all is quiet: what senders were told, and what is where.

    `lines` are those of `vald-node jobs`; `made` is the content of each result, by its SOP Instance
    UID; `held` is what the archives have, by the destinations' names.
    """

    told: Mapping[Sent, bool]
    lines: list[dict[str, Any]]
    made: Mapping[str, str]
    held: Mapping[str, Held]

    def faults(self) -> Iterator[str]:
        """What was lost or doubled: each film with its states, and what is of no film."""
        for film in {sent.film: None for sent in self.told}:
            if wrong := self._wrong(film):
                told = {sent.by: told for sent, told in self.told.items() if sent.film == film}
                yield f"{film} {wrong}; told success: {told}; lines: {self._lines(film)}"
        for name, held in self.held.items():
            for uid, _ in held - Counter(self._promised(self.lines, name)):
                yield f"{name} has {uid}, which no line promises it or which was made otherwise"

    def _wrong(self, film: str) -> str:
        """In what its results are not exactly those that its senders were promised."""
        lines = self._lines(film)
        sends = {GOES_TO[sent.by]: told for sent, told in self.told.items() if sent.film == film}
        owed = {name for name, told in sends.items() if told}
        places = Counter(d["destination"] for line in lines for d in line["deliveries"])
        if {line["state"] for line in lines} - {COMPLETE}:
            return "is not complete"
        if len(lines) > 1:
            return "has two jobs"
        if not owed <= set(places) <= set(sends):
            return f"goes to {sorted(places)}, not to {sorted(owed)}"
        if set(places.values()) - {_RESULTS}:
            return f"has results in these numbers: {dict(places)}"
        lacking = [name for name in places if not self._is_held(lines, name)]
        return f"has not each result once, as it was made, in {lacking}" if lacking else ""

    def _lines(self, film: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["source_sop_instance_uid"] == film]

    def _is_held(self, lines: list[dict[str, Any]], name: str) -> bool:
        return all(self.held[name][one] == 1 for one in self._promised(lines, name))

    def _promised(self, lines: list[dict[str, Any]], name: str) -> list[tuple[str, str]]:
        uids = [
            d["sop_instance_uid"]
            for line in lines
            for d in line["deliveries"]
            if d["destination"] == name
        ]
        return [(uid, self.made.get(uid, "is not known")) for uid in uids]
