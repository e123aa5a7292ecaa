"""What may stand in config.yaml: one frozen model a section, unknown keys refused."""

import difflib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

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


def _senders(value: object) -> object:
    return [{"ae_title": ANY}] if value == "any" else value


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


def _template(value: str) -> str:
    try:
        value.format(object="", model="", version="")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError("only {object}, {model} and {version} can be filled in") from error
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, Field(pattern=r"^\S+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
SeriesNumber = Annotated[int, Field(ge=1, lt=1 << 31)]  # PS3.5 6.2, VR IS
Keyword = Annotated[str, AfterValidator(_keyword)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
ResultNames = Annotated[tuple[ResultName, ...], BeforeValidator(_expanded), Field(min_length=1)]
GuardNames = Annotated[tuple[GuardName, ...], BeforeValidator(_listed)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sender(_Section):
    """Who may send: an AE title, from an address or network; "*" is any."""

    ae_title: AETitle
    host: Annotated[str, AfterValidator(_network)] = ANY


class NodeTimeouts(_Section):
    """How long reception waits."""

    association_s: Seconds = 15
    idle_s: Seconds = 600
    stop_grace_s: Seconds = 30


class Node(_Section):
    """The listening application entity."""

    ae_title: AETitle = "VALD"
    host: Host = "0.0.0.0"  # noqa: S104 - a node is there to be reached; `accept` restricts
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    accept: Annotated[tuple[Sender, ...], BeforeValidator(_senders), Field(min_length=1)]
    check_called_ae_title: bool = False
    max_associations: Count = 64
    max_pdu: Annotated[int, Field(ge=4096, le=1 << 24)] = 262144
    timeouts: NodeTimeouts = NodeTimeouts()


class Storage(_Section):
    """Where rows and files are kept."""

    database: Annotated[str, AfterValidator(_database)]
    objects: Annotated[str, Field(min_length=1)]


class Model(_Section):
    """Which model makes the maps, and how."""

    path: str = "embedded"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    mode: Literal["calibrated", "paper"] = "calibrated"
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


class Work(_Section):
    """The processes that analyse films."""

    workers: Count = 1
    lease_s: Annotated[float, Field(ge=30, allow_inf_nan=False)] = 120
    max_attempts: Count = 3
    decode_timeout_s: Seconds = 120
    decode_memory_mb: Annotated[int, Field(ge=256)] = 8192


class Retry(_Section):
    """How long to wait before a delivery is tried again."""

    first_delay_s: Seconds = 10
    factor: Annotated[float, Field(ge=1, le=10)] = 2
    max_delay_s: Seconds = 3600
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @model_validator(mode="after")
    def _grows(self) -> "Retry":
        if self.max_delay_s < self.first_delay_s:
            raise ValueError("write a max_delay_s that is not below first_delay_s")
        return self


class DeliveryTimeouts(_Section):
    """How long delivery waits for a destination."""

    connect_s: Seconds = 10
    association_s: Seconds = 30
    response_s: Seconds = 120


class DeliverySettings(_Section):
    """How results are sent."""

    batch: Annotated[int, Field(ge=1, le=128)] = 32
    timeouts: DeliveryTimeouts = DeliveryTimeouts()
    retry: Retry = Retry()


class Destination(_Section):
    """A PACS or other Storage SCP.

    `results` are what it gets instead of its rule's; `compression` is of pictures, lossless.
    """

    ae_title: AETitle
    host: Host
    port: Port
    results: ResultNames | None = None
    compression: Literal["none", "rle", "jpeg2000"] = "none"


class SeriesLabels(_Section):
    """How the series of results are numbered and described, one a kind and model version."""

    numbers: Annotated[dict[str, SeriesNumber], AfterValidator(_numbers)] = Field(
        default_factory=lambda: dict(SERIES_NUMBERS)
    )
    description: Annotated[str, AfterValidator(_template)] = (
        "VALD {object}, AI-generated, research use only"
    )


class Rule(_Section):
    """Which films are analysed, what is made of them, and where that goes."""

    name: Annotated[str, Field(min_length=1)]
    match: dict[Keyword, Texts] = Field(default_factory=dict)
    results: ResultNames
    destinations: Texts
    waive: GuardNames = ()


class Logging(_Section):
    """What the node says of itself on standard error."""

    level: Level = "INFO"
    format: Literal["json", "console"] = "json"


class NodeConfig(_Section):
    """Everything that an administrator decides."""

    node: Node
    storage: Storage
    model: Model = Model()
    work: Work = Work()
    delivery: DeliverySettings = DeliverySettings()
    destinations: dict[str, Destination]
    rules: tuple[Rule, ...]
    series: SeriesLabels = SeriesLabels()
    logging: Logging = Logging()


def keys_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys that the section at `path` of a configuration may have."""
    section: type[_Section] = NodeConfig
    for part in path:
        if part in section.model_fields:
            annotation = section.model_fields[str(part)].annotation
            section = next(_sections_in(annotation), section)
    return list(section.model_fields)


def _sections_in(annotation: Any) -> Iterator[type[_Section]]:
    if isinstance(annotation, type) and issubclass(annotation, _Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
