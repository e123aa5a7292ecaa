"""config.yaml becomes a frozen `NodeConfig`, or an error that names every fault and its line.

Nothing outside this package reads YAML or the environment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dicom_node.config import source as sources
from dicom_node.config.schema import (
    CommitmentSettings,
    DeliverySettings,
    DeliveryTimeouts,
    Destination,
    DicomWeb,
    Limits,
    Logging,
    Model,
    Node,
    NodeConfig,
    NodeTimeouts,
    Retention,
    Retry,
    Rule,
    Sender,
    SeriesLabels,
    ServerTls,
    Storage,
    Tls,
    Work,
    keys_at,
)
from dicom_node.config.source import KeyPath, Source
from dicom_node.config.values import (
    ANY,
    GUARDS,
    PROFILES,
    PSEUDO_KEYWORDS,
    RESULTS,
    SQLITE,
    did_you_mean,
)
from dicom_node.errors import ConfigError

__all__ = [
    "ANY",
    "GUARDS",
    "PROFILES",
    "PSEUDO_KEYWORDS",
    "RESULTS",
    "CommitmentSettings",
    "DeliverySettings",
    "DeliveryTimeouts",
    "Destination",
    "DicomWeb",
    "Limits",
    "Logging",
    "Model",
    "Node",
    "NodeConfig",
    "NodeTimeouts",
    "Retention",
    "Retry",
    "Rule",
    "Sender",
    "SeriesLabels",
    "ServerTls",
    "Storage",
    "Tls",
    "Work",
    "load",
]

_EMBEDDED = "embedded"
_PLACES = ("destinations", "dicomweb")
"""Sections whose keys name where results go."""
_SECRET = frozenset({"database", "url", "password", "bearer_token"})
"""Keys whose values are, or may hold, a password, and are not shown."""
_S = TypeVar("_S", Storage, Model, Node, Destination, DicomWeb, ServerTls, Tls)
_T = TypeVar("_T", ServerTls, Tls)

_SAID_BETTER = {
    "dict_type": "write keys and values below it",
    "too_short": "write at least one",
    "string_too_short": "write at least one character",
    "model_type": "write keys and values below it",
    "tuple_type": "write a list: [a, b]",
    "string_type": "write one text, not a list or section",
}
"""Pydantic's error types whose message names Python's types."""


def load(path: Path, environ: Mapping[str, str]) -> NodeConfig:
    """The configuration in the file at `path`, changed by `VALD_SECTION__KEY` of `environ`.

    Relative paths in it, or in the environment, start at the file's folder.

    Raises:
        ConfigError: it cannot be used; the message has one line for each fault.
    """
    source = sources.read(path, environ)
    config = _validated(source)
    _check_rules(source)
    if config is None or source.faults:
        raise ConfigError("\n  ".join([f"{path} cannot be used:", *source.faults]))
    return _with_whole_paths(config, path.resolve().parent)


def _validated(source: Source) -> NodeConfig | None:
    try:
        return NodeConfig.model_validate(source.tree)
    except ValidationError as error:
        for path, detail in _outermost_last(error.errors(include_url=False)):
            source.blame(path, _advice(detail, path))
        return None


def _outermost_last(details: Sequence[ErrorDetails]) -> list[tuple[KeyPath, ErrorDetails]]:
    """The faults by path, without those that only follow from one further in."""
    # An unusable key of a mapping is located as its name and "[key]".
    found = [(tuple(part for part in d["loc"] if part != "[key]"), d) for d in details]
    inner = {path[:i] for path, _ in found for i in range(len(path))}
    return [(path, d) for path, d in found if not (d["type"] == "too_short" and path in inner)]


def _advice(detail: ErrorDetails, path: KeyPath) -> str:
    """What is wrong and what to do."""
    kind, given = detail["type"], detail["input"]
    if kind == "missing":
        return "is missing; add it"
    if kind == "extra_forbidden":
        return f"is no key here{did_you_mean(str(path[-1]), keys_at(path[:-1]))}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    message = _SAID_BETTER.get(kind, message)
    shown = isinstance(given, str) and path[-1] not in _SECRET
    return f"{message} (it is {given!r})" if shown else message


def _check_rules(source: Source) -> None:
    """Note what is wrong between sections, whatever else may be wrong within them."""
    known = [name for section in _PLACES for name in _names(source.tree.get(section))]
    for name in {name for name in known if known.count(name) > 1}:
        source.blame(("dicomweb", name), "destinations has this name too; rename one")
    rules = source.tree.get("rules")
    seen: set[str] = set()
    for i, rule in enumerate(rules if isinstance(rules, list) else []):
        if isinstance(rule, dict):
            _check_name(rule.get("name"), i, seen, source)
            _check_destinations(rule.get("destinations"), i, known, source)


def _names(section: object) -> list[str]:
    return list(section) if isinstance(section, dict) else []


def _check_name(name: object, i: int, seen: set[str], source: Source) -> None:
    if isinstance(name, str):
        if name in seen:
            source.blame(("rules", i, "name"), f"two rules are named {name}; rename one")
        seen.add(name)


def _check_destinations(names: object, i: int, known: list[str], source: Source) -> None:
    for j, name in enumerate(names if isinstance(names, list) else [names]):
        if isinstance(name, str) and name not in known:
            message = f"there is no destination {name}; add it below destinations"
            path = ("rules", i, "destinations", j)
            source.blame(path, message + did_you_mean(name, known))


def _with_whole_paths(config: NodeConfig, folder: Path) -> NodeConfig:
    storage, model = config.storage, config.model
    database = storage.database
    if database.startswith(SQLITE):
        database = SQLITE + _whole(database.removeprefix(SQLITE), folder)
    storage = _changed(storage, database=database, objects=_whole(storage.objects, folder))
    if model.path != _EMBEDDED:
        model = _changed(model, path=_whole(model.path, folder))
    node = _changed(config.node, tls=_with_whole_files(config.node.tls, folder))
    destinations = {
        name: _changed(destination, tls=_with_whole_files(destination.tls, folder))
        for name, destination in config.destinations.items()
    }
    dicomweb = {
        name: _changed(server, tls=_with_whole_files(server.tls, folder))
        for name, server in config.dicomweb.items()
    }
    places = {"destinations": destinations, "dicomweb": dicomweb}
    return config.model_copy(update={"storage": storage, "model": model, "node": node, **places})


def _with_whole_files(tls: _T | None, folder: Path) -> _T | None:
    if tls is None:
        return None
    files = (("certificate", tls.certificate), ("key", tls.key), ("authority", tls.authority))
    return _changed(tls, **{name: _whole(path, folder) for name, path in files if path})


def _changed(section: _S, **values: object) -> _S:
    return section.model_copy(update=values)


def _whole(path: str, folder: Path) -> str:
    """A path that starts at `folder`; a URL stays as it is."""
    return path if "://" in path else str(folder / path)
