"""The prompts, from the one file that a radiologist can read and edit."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ModelError

FILE = Path(__file__).parent / "prompts.yaml"

_DENIES = re.compile(r"\b(no|without|not|free of|clear of)\b", re.IGNORECASE)
_LISTS, _NAMES = ("normal", "views"), ("findings", "zones")
_OPEN = {"normal": (), "induced": ("zone", "finding"), "labelled": ("finding",)}
"""Sentences, and what must stay open in them; `{view}` may."""


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

    @property
    def digest(self) -> str:
        """SHA-256 over all that is said, as hexadecimal; comments and layout do not count."""
        said = {known.name: getattr(self, known.name) for known in fields(self)}
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

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
    """The prompts that ship with the package; see `read`."""
    return read(FILE)


def read(path: Path) -> Prompts:
    """The prompts in a file.

    Raises:
        ModelError: it is no YAML, lacks a key, has one that is not known, or says something of
            another form than was expected; the message names the key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as fault:
        said = " ".join(str(fault).split())
        raise ModelError(f"{path.name}: cannot be read: {said}") from fault
    try:
        made = _made(values)
        _demand_sentences(made)
    except (TypeError, ValueError) as fault:
        raise ModelError(f"{path.name}: {fault}") from fault
    return made


def _made(values: Any) -> Prompts:
    known = {key.name for key in fields(Prompts)}
    if not isinstance(values, dict):
        raise TypeError(f"the keys {', '.join(sorted(known))} were expected")
    for wrong, what in ((known - values.keys(), "missing"), (values.keys() - known, "unknown")):
        if wrong:
            raise ValueError(f"{what} keys: {', '.join(sorted(map(str, wrong)))}")
    return Prompts(**{key: _value(key, value) for key, value in values.items()})


def _value(key: str, value: Any) -> Any:
    if key in _NAMES:
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{key}: names were expected, each with a list of other words for it")
        return {_text(key, n): _texts(f"{key}: {n}", w or []) for n, w in value.items()}
    if key not in _LISTS:
        return _text(key, value)
    if not value:
        raise ValueError(f"{key}: at least one was expected")
    return _texts(key, value)


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{key}: a list was expected, not {value!r}")
    return tuple(_text(key, text) for text in value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: words were expected, not {value!r}; put them in quotation marks")
    return value


def _demand_sentences(made: Prompts) -> None:
    if made.default_view not in made.views:
        raise ValueError(f"default_view: {made.default_view!r} is none of views")
    for key, names in _OPEN.items():
        said = getattr(made, key)
        for text in said if isinstance(said, tuple) else (said,):
            _demand_open(key, text, names)


def _demand_open(key: str, text: str, names: tuple[str, ...]) -> None:
    may = ", ".join(f"{{{name}}}" for name in ("view", *names))
    try:
        text.format(view="", **dict.fromkeys(names, ""))
    except (LookupError, ValueError, AttributeError) as fault:
        raise ValueError(f"{key}: {text!r}: no more than {may} may stand in braces") from fault
    if lacking := [name for name in names if f"{{{name}}}" not in text]:
        raise ValueError(f"{key}: {text!r}: lacks {{{lacking[0]}}}")
