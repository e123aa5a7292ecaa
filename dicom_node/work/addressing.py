"""Which results of a job are made, and which destination gets which."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dicom_node.config import Rule
from dicom_node.results.compression import NONE
from dicom_node.results.names import KINDS
from storage.jobs import Job

NOTE = "not_analysed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressing:
    """`kinds` by destination: its own `results:` where it has any, else the rule's.

    `compressions` by destination; one that is not there takes uncompressed pictures.
    """

    kinds: Mapping[str, tuple[str, ...]]
    compressions: Mapping[str, str]

    @property
    def asked(self) -> tuple[str, ...]:
        """What anyone gets, in the order of the kinds."""
        return tuple(kind for kind in KINDS if any(kind in own for own in self.kinds.values()))

    @property
    def told(self) -> tuple[str, ...]:
        """The destinations that are told why a film was not analysed."""
        return tuple(name for name, own in self.kinds.items() if NOTE in own)

    def compression(self, kind: str) -> str:
        """The one that all who get this kind take: an object is made once, and kept as it is."""
        takers = [name for name, own in self.kinds.items() if kind in own]
        named = {self.compressions.get(name, NONE) for name in takers}
        return named.pop() if len(named) == 1 else NONE


def of(
    job: Job, overrides: Mapping[str, tuple[str, ...]], compressions: Mapping[str, str]
) -> Addressing:
    """Who gets what of this job; `overrides` are the destinations' own `results:`.

    They count for a job of an older program, which does not know what it promised.
    """
    older = {name: overrides.get(name, job.results) for name in job.destinations}
    kinds = dict(job.promised) or older
    return Addressing(kinds=kinds, compressions=compressions)


def telling(rules: Iterable[Rule], overrides: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The names of the rules of whose refused films some destination is told."""
    return frozenset(
        rule.name
        for rule in rules
        if any(NOTE in overrides.get(name, rule.results) for name in rule.destinations)
    )
