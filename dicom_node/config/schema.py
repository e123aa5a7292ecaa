"""What may stand in config.yaml: one frozen model a section, unknown keys refused."""

import difflib
import ipaddress
import re
import string
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

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
_MOST_PATIENCE_S = 1_000_000
_MOST_NAME = 255  # characters, of a destination's in the database
_MOST_MB = 1 << 40  # a number of bytes fits into 64 bits, as setrlimit(2) takes it

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
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=_TEN_YEARS_S, allow_inf_nan=False)]
Patience = Annotated[float, Field(gt=0, le=_MOST_PATIENCE_S, allow_inf_nan=False)]
Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]  # as databases count
SeriesNumber = Annotated[int, Field(ge=1, lt=1 << 31)]  # PS3.5 6.2, VR IS
Keyword = Annotated[str, AfterValidator(_keyword)]
Text = Annotated[str, AfterValidator(_legible)]
Name = Annotated[str, Field(min_length=1, max_length=_MOST_NAME), AfterValidator(_legible)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
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

    association_s: Patience = 15
    idle_s: Patience = 600
    message_s: Patience = 900
    stop_grace_s: Patience = 30


class ServerTls(_Section):
    """How associations that others open are encrypted: PEM files."""

    certificate: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]
    authority: str | None = None


class Tls(_Section):
    """How associations that we open are encrypted: PEM files."""

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    host: Host | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("write certificate and key, or neither")
        return self


class StatusPage(_Section):
    """Where a page is listened at that says how the node is doing."""

    host: Host = "127.0.0.1"
    port: Port = 11180


class Limits(_Section):
    """How full disk and queue may become. Soft: no new senders. Hard: no film at all."""

    soft_free_mb: Annotated[int, Field(ge=0, le=_MOST_MB)] = 2048
    hard_free_mb: Annotated[int, Field(ge=0, le=_MOST_MB)] = 512
    soft_queue: Count = 20000
    hard_queue: Count = 50000
    max_message_mb: Annotated[int, Field(ge=16, le=_MOST_MB)] = 1024
    max_at_once_mb: Annotated[int, Field(ge=16, le=_MOST_MB)] = 4096

    @model_validator(mode="after")
    def _soft_comes_first(self) -> "Limits":
        if self.hard_free_mb > self.soft_free_mb or self.hard_queue < self.soft_queue:
            raise ValueError("write soft limits that are reached before the hard ones")
        if self.max_at_once_mb < self.max_message_mb:
            raise ValueError("write a max_at_once_mb of at least max_message_mb")
        return self


class Node(_Section):
    """The listening application entity."""

    ae_title: AETitle = "VALD"
    host: Host = "0.0.0.0"  # noqa: S104 - a node is there to be reached; `accept` restricts
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    accept: Annotated[tuple[Sender, ...], BeforeValidator(_senders), Field(min_length=1)]
    check_called_ae_title: bool = False
    max_associations: Count = 64
    max_associations_per_address: Count = 32
    max_pdu: Annotated[int, Field(ge=4096, le=1 << 24)] = 262144
    timeouts: NodeTimeouts = NodeTimeouts()
    limits: Limits = Limits()
    tls: ServerTls | None = None
    status: StatusPage | None = None


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

    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    lease_s: Annotated[float, Field(ge=30, le=_MOST_PATIENCE_S, allow_inf_nan=False)] = 120
    max_attempts: Count = 3
    limit_s: Patience = 1800
    decode_timeout_s: Patience = 120
    decode_memory_mb: Annotated[int, Field(ge=256, le=_MOST_MB)] = 8192
    reconcile_at: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "05:00"


class Retention(_Section):
    """How long kept objects stay after nobody needs them; None is for ever."""

    received_days: Days | None = None
    results_days: Days | None = None
    after: Literal["committed", "delivered"] = "committed"


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

    connect_s: Patience = 10
    association_s: Patience = 30
    response_s: Patience = 120


class CommitmentSettings(_Section):
    """How long reports on what was stored are waited for."""

    linger_s: Annotated[float, Field(ge=0, le=_MOST_PATIENCE_S, allow_inf_nan=False)] = 5
    report_within_s: Seconds = 3600


class DeliverySettings(_Section):
    """How results are sent."""

    batch: Annotated[int, Field(ge=1, le=128)] = 32
    commitment: CommitmentSettings = CommitmentSettings()
    rest_after: Count = 5
    expire_after_s: Seconds | None = None
    timeouts: DeliveryTimeouts = DeliveryTimeouts()
    retry: Retry = Retry()


class _Place(_Section):
    """Where results can go, by whatever protocol."""

    commitment: Literal["none", "storage_commitment", "query"] = "none"
    confirm_study: bool | None = None

    @property
    def asks_for_study(self) -> bool:
        """Whether its study is asked for before results go there."""
        return self.confirm_study is not False

    @property
    def must_answer_for_study(self) -> bool:
        """Whether nothing goes there unless it says something of its study.

        By default where it is queried anyway: another may answer no queries, and would get nothing.
        """
        return self.commitment == "query" if self.confirm_study is None else self.confirm_study


class Destination(_Place):
    """A PACS or other Storage SCP.

    `results` are what it gets instead of its rule's; `compression` is of pictures, lossless.
    """

    ae_title: AETitle
    host: Host
    port: Port
    results: ResultNames | None = None
    compression: Literal["none", "rle", "jpeg2000"] = "none"
    tls: Tls | None = None


class DicomWeb(_Place):
    """A DICOMweb server that results go to by STOW-RS."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$"), AfterValidator(_url)]
    bearer_token: str | None = None
    username: str | None = None
    password: str | None = None
    commitment: Literal["none", "query"] = "none"
    tls: Tls | None = None
    results: ResultNames | None = None
    compression: Literal["none", "rle", "jpeg2000"] = "none"

    @model_validator(mode="after")
    def _knows_one_way_in(self) -> "DicomWeb":
        if self.bearer_token is not None and self.username is not None:
            raise ValueError("write bearer_token, or username and password, not both")
        if self.tls is not None and not self.encrypted:
            raise ValueError("tls needs a url that begins with https://; http:// is not encrypted")
        return self

    @property
    def encrypted(self) -> bool:
        """Whether it is spoken to by TLS."""
        return self.url.startswith("https://")

    @property
    def address(self) -> str:
        """Its URL as it may be shown: without user and password."""
        scheme, where, path, *_ = urlsplit(self.url)
        return f"{scheme}://{where.rpartition('@')[2]}{path}"


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

    name: Name
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
    retention: Retention = Retention()
    delivery: DeliverySettings = DeliverySettings()
    destinations: dict[Name, Destination] = Field(default_factory=dict)
    dicomweb: dict[Name, DicomWeb] = Field(default_factory=dict)
    rules: tuple[Rule, ...]
    series: SeriesLabels = SeriesLabels()
    logging: Logging = Logging()

    @property
    def everywhere(self) -> dict[str, Destination | DicomWeb]:
        """Every place where results can go, by its name."""
        return {**self.destinations, **self.dicomweb}

    @property
    def overrides(self) -> dict[str, tuple[str, ...]]:
        """The destinations' own `results:`, by the names of those that have any."""
        return {name: place.results for name, place in self.everywhere.items() if place.results}

    @property
    def queried(self) -> frozenset[str]:
        """The names of those where results are looked for by a query."""
        places = self.everywhere.items()
        return frozenset(name for name, place in places if place.commitment == "query")

    @property
    def promising(self) -> frozenset[str]:
        """The names of those that are asked whether they have stored what they took."""
        places = self.everywhere.items()
        return frozenset(name for name, place in places if place.commitment != "none")


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
