"""What may stand in config.yaml: one frozen model a section, unknown keys refused."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dicom_node.config.values import (
    ANY,
    MOST_MB,
    MOST_PATIENCE_S,
    SERIES_NUMBERS,
    AETitle,
    Count,
    DatabaseUrl,
    Days,
    GuardNames,
    Host,
    HttpUrl,
    Keyword,
    Level,
    Name,
    Network,
    Patience,
    Port,
    ResultNames,
    Seconds,
    SeriesNumbers,
    Template,
    Texts,
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _senders(value: object) -> object:
    return [{"ae_title": ANY}] if value == "any" else value


class Sender(_Section):
    """Who may send: an AE title, from an address or network; "*" is any."""

    ae_title: AETitle
    host: Network = ANY


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

    soft_free_mb: Annotated[int, Field(ge=0, le=MOST_MB)] = 2048
    hard_free_mb: Annotated[int, Field(ge=0, le=MOST_MB)] = 512
    soft_queue: Count = 20000
    hard_queue: Count = 50000
    max_message_mb: Annotated[int, Field(ge=16, le=MOST_MB)] = 1024
    max_at_once_mb: Annotated[int, Field(ge=16, le=MOST_MB)] = 4096

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

    database: DatabaseUrl
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
    lease_s: Annotated[float, Field(ge=30, le=MOST_PATIENCE_S, allow_inf_nan=False)] = 120
    max_attempts: Count = 3
    limit_s: Patience = 1800
    decode_timeout_s: Patience = 120
    decode_memory_mb: Annotated[int, Field(ge=256, le=MOST_MB)] = 8192
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

    linger_s: Annotated[float, Field(ge=0, le=MOST_PATIENCE_S, allow_inf_nan=False)] = 5
    report_within_s: Seconds = 3600


class DeliverySettings(_Section):
    """How results are sent."""

    batch: Annotated[int, Field(ge=1, le=128)] = 32
    commitment: CommitmentSettings = CommitmentSettings()
    rest_after: Count = 5
    expire_after_s: Seconds | None = None
    timeouts: DeliveryTimeouts = DeliveryTimeouts()
    retry: Retry = Retry()

    @property
    def longest_wait_s(self) -> float:
        """Nothing waits longer for its next turn, to be sent, asked about or probed."""
        return max(
            self.retry.max_delay_s * (1 + self.retry.jitter), self.commitment.report_within_s
        )


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

    url: HttpUrl
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

    numbers: SeriesNumbers = Field(default_factory=lambda: dict(SERIES_NUMBERS))
    description: Template = "VALD {object}, AI-generated, research use only"


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
