"""The prompts, from the one file that a radiologist can read and edit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from pipeline.errors import ModelError

_DENIES = re.compile(r"\b(no|without|not|free of|clear of)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Sentences by use, with `{view}`, `{zone}` and `{finding}` still open.

    `findings` and `zones` give for each name, as the model knows it, what else may be said for it.
    """

    normal: tuple[str, ...]
    induced: str
    labelled: str
    views: tuple[str, ...]
    default_view: str
    findings: Mapping[str, tuple[str, ...]]
    zones: Mapping[str, tuple[str, ...]]

    def normal_prompts(self, view: str = "") -> tuple[str, ...]:
        """The paraphrases of "normal" for a view."""
        return tuple(text.format(view=view or self.default_view) for text in self.normal)

    def induced_prompt(self, zone: str, finding: str, view: str = "") -> str:
        """The prompt of one finding in one zone."""
        return self.induced.format(view=view or self.default_view, zone=zone, finding=finding)

    def labelled_prompt(self, finding: str, view: str = "") -> str:
        """The prompt of a finding whose place is not known."""
        return self.labelled.format(view=view or self.default_view, finding=finding)

    def understood(self, text: str) -> str:
        """Free text as a sentence that the model was taught, where it names a known finding.

        What denies, and what names none, stays as it is.
        """
        zone, finding = _named(text, self.zones), _named(text, self.findings)
        if not finding or _DENIES.search(text):
            return text
        return self.induced_prompt(zone, finding) if zone else self.labelled_prompt(finding)


def _named(text: str, names: Mapping[str, tuple[str, ...]]) -> str:
    """The name whose longest word for it occurs in the text; empty if none does."""
    words = {word: name for name, others in names.items() for word in (name, *others)}
    longest_first = sorted(words, key=len, reverse=True)
    found = (w for w in longest_first if re.search(rf"\b{re.escape(w)}\b", text, re.IGNORECASE))
    return words.get(next(found, ""), "")


@cache
def load() -> Prompts:
    """The prompts that ship with the package.

    Raises:
        ModelError: the file lacks a key or has one that is not known.
    """
    text = resources.files("pipeline").joinpath("prompts.yaml").read_text(encoding="utf-8")
    read: dict[str, Any] = yaml.safe_load(text)
    try:
        return Prompts(**{key: _frozen(value) for key, value in read.items()})
    except TypeError as fault:
        raise ModelError(f"prompts.yaml: {fault}") from fault


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: tuple(others or ()) for name, others in value.items()}
    return tuple(value) if isinstance(value, list) else value
