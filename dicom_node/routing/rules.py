"""Which rule a film is analysed by: the first that matches its header and association."""

import re
from collections.abc import Sequence

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue

from dicom_node import attributes
from dicom_node.config import Rule
from dicom_node.radiograph import SourceHeader

# Values may be shown in a decision, which is logged, only where they cannot name a patient: by
# keyword or VR, in the form that PS3.5 6.2 gives them.
_SHORT, _LONG = re.compile(r"[ -~]{1,16}"), re.compile(r"[ -~]{1,64}")
_SHOWN = {
    "CS": re.compile(r"[A-Z0-9 _]{0,16}"),
    "UI": re.compile(r"(?=.{1,64}$)[0-2](\.(0|[1-9]\d*))+", re.ASCII),
    "Manufacturer": _LONG,
    "ManufacturerModelName": _LONG,
    "CallingAET": _SHORT,
    "CalledAET": _SHORT,
}
_MOST_SHOWN = 16  # values of one attribute


def match(header: Dataset, calling_ae: str, called_ae: str, rules: Sequence[Rule]) -> Rule | None:
    """The first rule that matches, or None."""
    pseudo = _pseudo(calling_ae, called_ae)
    return next((rule for rule in rules if not _mismatch(header, pseudo, rule)), None)


def explain(header: SourceHeader, calling_ae: str, called_ae: str, rules: Sequence[Rule]) -> str:
    """Why no rule matches, in words without patient data; "" where one does."""
    if match(header.dataset, calling_ae, called_ae, rules) is not None:
        return ""
    if not rules:
        return "no rule matches: there is none"
    pseudo = _pseudo(calling_ae, called_ae)
    return f"no rule matches: {'; '.join(_why(header, pseudo, rule) for rule in rules)}"


def _pseudo(calling_ae: str, called_ae: str) -> dict[str, str]:
    return {"CallingAET": calling_ae, "CalledAET": called_ae}


def _mismatch(header: Dataset, pseudo: dict[str, str], rule: Rule) -> str:
    """The first keyword whose values match none of the rule's patterns, or ""."""
    for keyword, patterns in rule.match.items():
        if not _any_matches(_values(header, pseudo, keyword), patterns):
            return keyword
    return ""


def _any_matches(values: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    return any(_pattern(pattern).fullmatch(value) for pattern in patterns for value in values)


def _pattern(text: str) -> re.Pattern[str]:
    """`*` is any text, `?` any one character, as in PS3.4 C.2.2.2.4; case is not looked at."""
    parts = {"*": ".*", "?": "."}
    pattern = "".join(parts.get(character) or re.escape(character) for character in text)
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


def _values(header: Dataset, pseudo: dict[str, str], keyword: str) -> tuple[str, ...]:
    """The values as text, ("",) where the attribute is absent, empty or unreadable."""
    if keyword in pseudo:
        return (pseudo[keyword].strip(),)
    try:
        value = header.get(keyword)
    except attributes.UNREADABLE:
        return ("",)
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return tuple("" if v is None else str(v).strip(" \0") for v in values) or ("",)


def _why(header: SourceHeader, pseudo: dict[str, str], rule: Rule) -> str:
    keyword = _mismatch(header.dataset, pseudo, rule)
    wanted = _or([f"{pattern}" if pattern else "none" for pattern in rule.match[keyword]])
    if keyword in header.left_out:
        return f"{keyword} is too long or cannot be read, rule {rule.name} wants {wanted}"
    found = _values(header.dataset, pseudo, keyword)
    if not any(found):
        return f"{keyword} is absent, rule {rule.name} wants {wanted}"
    if not _may_be_shown(keyword, found):
        return f"{keyword} is not what rule {rule.name} wants"
    shown = "\\".join(found)
    return f"{keyword} is {shown}, rule {rule.name} wants {wanted}"


def _may_be_shown(keyword: str, values: tuple[str, ...]) -> bool:
    form = _SHOWN.get(keyword) or _SHOWN.get(dictionary_VR(keyword))
    if form is None or keyword.startswith("Patient") or len(values) > _MOST_SHOWN:
        return False
    return all(form.fullmatch(value) for value in values)


def _or(words: list[str]) -> str:
    """ "CR, DX or RG"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
