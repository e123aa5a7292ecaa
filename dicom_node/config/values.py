"""What one value of config.yaml may be: names, addresses, numbers, each with its bounds."""

import difflib
import ipaddress
import re
import string
from collections.abc import Iterable
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from storage.words import legible

PSEUDO_KEYWORDS = ("CallingAET", "CalledAET")
"""What a rule may match beside DICOM keywords: the association's AE titles."""
ANY = "*"
"""A sender's AE title or host that is not looked at."""
SQLITE = "sqlite:///"
_DATABASES = (SQLITE, "postgresql+psycopg://")

GuardName = Literal["synthetic", "for_processing", "body_part", "lateral", "paediatric"]
ResultName = Literal[
    "secondary_capture",
    "structured_report",
    "presentation_state",
    "segmentation_regions",
    "segmentation_map",
    "parametric_map",
    "counterpart_capture",
    "overlay_capture",
    "key_object_selection",
    "not_analysed",
]
GUARDS: tuple[str, ...] = get_args(GuardName)
RESULTS: tuple[str, ...] = get_args(ResultName)
PROFILES: dict[str, tuple[str, ...]] = {
    "basic": RESULTS[:2],
    "viewer": RESULTS[:5],
    "research": RESULTS,
}
"""Names for many results: what every viewer shows, what lies on the film itself, everything."""
SERIES_NUMBERS = {
    name: number for number, name in enumerate((*RESULTS, "rejection_note"), start=9001)
}
"""After the series of any study, in this order."""

# Later, and longer ago, than any date that is computed with them.
_TEN_YEARS_S = 315_360_000
# Of waits: poll(2) takes milliseconds in 31 bits, 24 days.
MOST_PATIENCE_S = 1_000_000
_MOST_NAME = 255  # characters, of a destination's in the database
MOST_MB = 1 << 40  # a number of bytes fits into 64 bits, as setrlimit(2) takes it

# PS3.5 6.2, VR AE: 1 to 16 characters of the default repertoire, no backslash, no control
# character; leading and trailing spaces would not be significant.
_AE_TITLE = re.compile(r"(?! )[\x20-\x5b\x5d-\x7e]{1,16}(?<! )")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that `word` may be a misspelling of, or at all of a few."""
    words = {known_word.lower(): known_word for known_word in known}
    near = difflib.get_close_matches(word.lower(), words, n=1)
    if near:
        return f"; did you mean {words[near[0]]}?"
    return f"; there are {', '.join(words.values())}" if 0 < len(words) < 20 else ""


def _ae_title(value: str) -> str:
    if not _AE_TITLE.fullmatch(value):
        raise ValueError("write 1 to 16 ASCII characters, no backslash, no space at either end")
    return value


def _network(value: str) -> str:
    if value != ANY:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValueError("write an address, 10.0.0.5, or a network, 10.0.0.0/24") from error
    return value


def _legible(value: str) -> str:
    """As databases keep it; any space and joiner of any script is a letter of a name."""
    if "\n" in value or legible(value) != value:
        raise ValueError("write printable characters, no line break or other control character")
    return value


def _url(value: str) -> str:
    """Paths are written behind it, and it is shown: all before the host is a secret, and no more.

    An unquoted / or ? of a password would end the host, and what follows it be shown.
    """
    try:
        parts = urlsplit(value)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.query or parts.fragment or "@" in parts.path:
        raise ValueError(
            "write https://host:port/path, no more; in a user or password %40 for @, %2F for /, "
            "%3F for ?, %23 for #; %40 for @ in the path, too"
        )
    return value


def _database(value: str) -> str:
    if not value.startswith(_DATABASES):
        raise ValueError(f"begin it with {' or '.join(_DATABASES)}")
    if value.removeprefix(SQLITE) in ("", ":memory:"):
        raise ValueError("name a file: the node's processes share it")
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _expanded(value: object) -> object:
    """Profiles by the results that they stand for, each once, in the order of RESULTS."""
    names = _listed(value)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return names
    if not {*names} <= {*PROFILES, *RESULTS}:
        return [PROFILES.get(name, (name,))[0] for name in names]  # for ResultName to blame
    asked = {result for name in names for result in PROFILES.get(name, (name,))}
    return [name for name in RESULTS if name in asked]


def _keyword(value: str) -> str:
    if value not in PSEUDO_KEYWORDS and tag_for_keyword(value) is None:
        known = [*PSEUDO_KEYWORDS, *(entry[4] for entry in DicomDictionary.values())]
        raise ValueError(f"is no DICOM keyword{did_you_mean(value, known)}")
    return value


def _numbers(value: dict[str, int]) -> dict[str, int]:
    for name in value:
        if name not in SERIES_NUMBERS:
            raise ValueError(f"{name} is no result{did_you_mean(name, SERIES_NUMBERS)}")
    return {**SERIES_NUMBERS, **value}


_FILLED_IN = frozenset({"object", "model", "version"})


def _template(value: str) -> str:
    """Only plain fields: an index, attribute, format or conversion would fail with the job."""
    problem = "only {object}, {model} and {version} can be filled in"
    try:
        fields = [parts for parts in string.Formatter().parse(value) if parts[1] is not None]
    except ValueError as error:
        raise ValueError(problem) from error
    if any(name not in _FILLED_IN or layout or turned for _, name, layout, turned in fields):
        raise ValueError(problem)
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, Field(pattern=r"^\S+$")]
Network = Annotated[str, AfterValidator(_network)]
HttpUrl = Annotated[str, Field(pattern=r"^https?://\S+$"), AfterValidator(_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=_TEN_YEARS_S, allow_inf_nan=False)]
Patience = Annotated[float, Field(gt=0, le=MOST_PATIENCE_S, allow_inf_nan=False)]
Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]  # as databases count
SeriesNumber = Annotated[int, Field(ge=1, lt=1 << 31)]  # PS3.5 6.2, VR IS
SeriesNumbers = Annotated[dict[str, SeriesNumber], AfterValidator(_numbers)]
Template = Annotated[str, AfterValidator(_template)]
Keyword = Annotated[str, AfterValidator(_keyword)]
Text = Annotated[str, AfterValidator(_legible)]
Name = Annotated[str, Field(min_length=1, max_length=_MOST_NAME), AfterValidator(_legible)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
ResultNames = Annotated[tuple[ResultName, ...], BeforeValidator(_expanded), Field(min_length=1)]
GuardNames = Annotated[tuple[GuardName, ...], BeforeValidator(_listed)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
