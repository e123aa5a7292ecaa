"""The prompts, from the one file that a radiologist can read and edit."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args

import yaml

from pipeline.errors import ModelError

FILE = Path(__file__).parent / "prompts.yaml"

Finding = Literal["opacity", "consolidation", "nodule", "tuberculosis", "pneumonia"]
FINDINGS: tuple[Finding, ...] = get_args(Finding)
ZONES = tuple(
    f"{side} {third} zone" for side in ("Right", "Left") for third in ("upper", "mid", "lower")
)
"""The thirds of the lungs, from the patient's right apex to the left base."""
VIEWS = ("PA", "AP", "Frontal")
_ANY_VIEW = "Frontal"
_NAMES: Mapping[str, tuple[str, ...]] = {"views": VIEWS, "findings": FINDINGS, "zones": ZONES}
"""What the program knows: the file says how each is called, and each has a name there."""

_DENIALS = (
    "no", "not", "cannot", "nor", "neither", "never", "none", "nothing", "nil", "without",
    "absent", "absence", "lack", "lacks", "lacked", "lacking", "negative",
    "deny", "denies", "denied", "free", "clear of", "clear from",
    "resolved", "rule out", "ruled out", "excluded",
)  # fmt: skip
"""Words by which what is named is said not to be there: to ask as it stands for what was meant is
better than to induce what was denied, so that a word too many here does less harm than one missing.
"""
_ANY_DENIAL = "|".join(_DENIALS).replace(" ", r"\s+")
_DENIES = re.compile(rf"(?<!\w)({_ANY_DENIAL})(?!\w)|n['’]t(?!\w)", re.IGNORECASE)
_SPOKEN, _LONGEST = re.compile(r"\w+|[^\w\s]"), 24
"""Words and marks, and how many a sentence may have: a text encoder of ours hears 32 pieces."""
_SMALL = {"a", "an", "and", "at", "in", "of", "on", "the", "with"}
_OPEN = {"normal": (), "induced": ("zone", "finding"), "labelled": ("finding",)}
"""Sentences, and what must stay open in them; `{view}` may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What free text asks for: findings and zones by their names, and the words left over.

    Nothing is heard in what denies or names no known finding.
    """

    findings: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Sentences by use, with `{view}`, `{zone}` and `{finding}` still open, and what these are
    called: a view by one word, a finding or a zone by the first of the words understood for it.
    """

    normal: tuple[str, ...]
    induced: str
    labelled: str
    views: Mapping[str, str]
    findings: Mapping[str, tuple[str, ...]]
    zones: Mapping[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        """SHA-256 over all that is said, as hexadecimal; comments and layout do not count."""
        said = {known.name: getattr(self, known.name) for known in fields(self)}
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def normal_prompts(self, view: str = "") -> tuple[str, ...]:
        """The paraphrases of "normal" for a view."""
        return tuple(text.format(view=self._called(view)) for text in self.normal)

    def induced_prompt(self, zone: str, finding: str, view: str = "") -> str:
        """The prompt of one finding in one zone."""
        place, what = self.zones[zone][0], self.findings[finding][0]
        return self.induced.format(view=self._called(view), zone=place, finding=what)

    def labelled_prompt(self, finding: str, view: str = "") -> str:
        """The prompt of a finding whose place is not known."""
        return self.labelled.format(view=self._called(view), finding=self.findings[finding][0])

    def sentences(self, view: str) -> dict[str, tuple[str, ...]]:
        """All that may be said of a film of a view, by the file's keys, in the order of what it
        means.
        """
        return {
            "normal": self.normal_prompts(view),
            "labelled": tuple(self.labelled_prompt(finding, view) for finding in FINDINGS),
            "induced": tuple(self.induced_prompt(z, f, view) for z in ZONES for f in FINDINGS),
        }

    def words(self) -> Iterator[tuple[str, str]]:
        """Every word understood, and the name of the finding or zone that it means."""
        for names in (self.findings, self.zones):
            for name, others in names.items():
                yield from ((word, name) for word in (name, *others))

    def heard(self, text: str) -> Heard:
        """What free text asks for; of two that are named, that of the longer word comes first."""
        found, rest = [], text
        for word, name in sorted(self.words(), key=lambda known: len(known[0]), reverse=True):
            form = _one_or_more(word) if name in FINDINGS else re.escape(word)
            alone = rf"(?<!\w){form}(?!\w)"
            rest, times = re.subn(alone, "|", rest, flags=re.IGNORECASE)
            found += [name] * bool(times)
        findings, zones = (
            tuple(dict.fromkeys(name for name in found if name in names))
            for names in (FINDINGS, ZONES)
        )
        if not findings or _DENIES.search(rest):
            return Heard()
        left_over = (word for word in re.findall(r"\w[\w-]*", rest) if word.lower() not in _SMALL)
        return Heard(findings=findings, zones=zones, left_over=tuple(left_over))

    def understood(self, text: str) -> str:
        """Free text as a sentence that the model was taught, where it names a known finding.

        What denies, and what names none, stays as it is.
        """
        heard = self.heard(text)
        if not heard.findings:
            return text
        if not heard.zones:
            return self.labelled_prompt(heard.findings[0])
        return self.induced_prompt(heard.zones[0], heard.findings[0])

    def _called(self, view: str) -> str:
        return self.views.get(view, self.views[_ANY_VIEW])


def _one_or_more(word: str) -> str:
    """A pattern of an English noun and its regular plural."""
    if re.search(r"[^aeiou]y$", word, re.IGNORECASE):
        return rf"{re.escape(word[:-1])}(?:y|ies)"
    hisses = re.search(r"(s|x|z|ch|sh)$", word, re.IGNORECASE)
    return re.escape(word) + ("(?:es)?" if hisses else "s?")


@cache
def load() -> Prompts:
    """The prompts that ship with the package; see `read`."""
    return read(FILE)


def read(path: Path) -> Prompts:
    """The prompts in a file.

    Raises:
        ModelError: it is no YAML, refers to another place in itself, lacks a key, has one that is
            not known, says something of another form than was expected, or the same for two
            things; the message names the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _demand_no_references(text)
        values = yaml.safe_load(text)
    except RecursionError as fault:
        said = "lists stand in lists too deep: more brackets are opened than belong there"
        raise ModelError(f"{path.name}: cannot be read: {said}") from fault
    except (OSError, ValueError, yaml.YAMLError) as fault:
        said = " ".join(str(fault).split())
        raise ModelError(f"{path.name}: cannot be read: {said}") from fault
    try:
        _demand_once(yaml.compose(text, Loader=yaml.SafeLoader))
        made = _made(values)
        _demand_sentences(made)
        _demand_one_meaning(made)
        _demand_clear(made)
    except (TypeError, ValueError) as fault:
        raise ModelError(f"{path.name}: {fault}") from fault
    return made


def _demand_no_references(text: str) -> None:
    """YAML's & and *, which nobody needs here: by them a thing may hold itself, or grow."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if (name := getattr(event, "anchor", None)) is not None:
            raise ValueError(
                f"&{name} or *{name} refers to another place: write the words out where they "
                "belong; in quotation marks these are plain marks"
            )


def _demand_once(node: yaml.Node | None) -> None:
    """No key stands twice: YAML would take the last and say nothing."""
    if not isinstance(node, yaml.MappingNode):
        return
    keys = Counter(str(key.value) for key, _ in node.value)
    if twice := [key for key, times in keys.items() if times > 1]:
        raise ValueError(f"{twice[0]} stands twice on the left: make one of the two")
    for _, value in node.value:
        _demand_once(value)


def _made(values: Any) -> Prompts:
    _demand_keys("", values, tuple(known.name for known in fields(Prompts)))
    return Prompts(**{key: _value(key, value) for key, value in values.items()})


def _demand_keys(where: str, values: Any, known: tuple[str, ...]) -> None:
    if not isinstance(values, dict):
        raise TypeError(f"{where}on the left must stand {', '.join(known)}")
    wrong = [f"{key} is missing" for key in known if key not in values]
    wrong += [f"{key} is not known" for key in values if key not in known]
    if wrong:
        raise ValueError(
            f"{where}{', '.join(wrong)}: on the left must stand {', '.join(known)}; "
            "other words go on the right"
        )


def _value(key: str, value: Any) -> Any:
    if key == "normal":
        return _texts(key, value)
    if key not in _NAMES:
        return _text(key, value)
    _demand_keys(f"{key}: ", value, _NAMES[key])
    read = _text if key == "views" else _texts
    return {name: read(f"{key}: {name}", value[name]) for name in _NAMES[key]}


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{key}: a list was expected, not {value!r}")
    if not value:
        raise ValueError(f"{key}: at least one was expected")
    return tuple(_text(key, text) for text in value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: words were expected, not {value!r}; put them in quotation marks")
    return value.strip()


def _demand_sentences(made: Prompts) -> None:
    for key, names in _OPEN.items():
        said = getattr(made, key)
        for text in said if isinstance(said, tuple) else (said,):
            _demand_open(key, text, names)


def _demand_open(key: str, text: str, names: tuple[str, ...]) -> None:
    may = ("view", *names)
    plain = f"no more than {', '.join(f'{{{name}}}' for name in may)} may stand in braces"
    try:
        found = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError as fault:
        raise ValueError(f"{key}: {text!r}: {plain}") from fault
    if not set(found) <= {(name, "", None) for name in may}:
        raise ValueError(f"{key}: {text!r}: {plain}")
    if lacking := [name for name in names if (name, "", None) not in found]:
        raise ValueError(f"{key}: {text!r}: lacks {{{lacking[0]}}}")


def _demand_one_meaning(made: Prompts) -> None:
    meant: dict[str, str] = {}
    for word, name in made.words():
        if (other := meant.setdefault(word.lower(), name)) != name:
            raise ValueError(
                f"findings, zones: {word!r} stands for {other} and for {name}; "
                "a word may mean one thing: take it away from one of them"
            )


def _demand_clear(made: Prompts) -> None:
    for view in VIEWS:
        before: set[str] = set()
        for key, texts in made.sentences(view).items():
            for text in texts:
                if len(_SPOKEN.findall(text)) > _LONGEST:
                    raise ValueError(
                        f"{key}: {text!r} has more than {_LONGEST} words and marks, and the model "
                        "would not hear its end: say less"
                    )
                if text.lower() in before:
                    raise ValueError(
                        f"{key}: {text!r} would be said of two things, or twice of one: say one of "
                        "them otherwise"
                    )
                before.add(text.lower())
