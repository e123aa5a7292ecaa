"""config.yaml and the environment as plain dicts, lists and text, with the place of each.

Every scalar stays text until the field it is for converts it. So YAML's own guesses (YES is a
boolean, 1.10 a float, 012 octal) never reach a rule, and file and environment follow one rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dicom_node.errors import ConfigError

KeyPath = tuple[str | int, ...]
ENVIRONMENT_PREFIX = "VALD_"
_NULL = "tag:yaml.org,2002:null"


@dataclass(slots=True)
class Source:
    """What was read, where each path is written, and the faults found so far."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def blame(self, path: KeyPath, message: str) -> None:
        """Note a fault of `path`, at its place or at that of the section that lacks it."""
        at = path
        while at and at not in self.places:
            at = at[:-1]
        self.faults.append(f"{self.places.get(at, 'line 1')}: {dotted(path)}: {message}")


def dotted(path: KeyPath) -> str:
    """The path as an administrator reads it: rules[0].match.Modality."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".") or "the file"


def read(path: Path, environ: Mapping[str, str]) -> Source:
    """The file at `path` with each `VALD_A__B=value` of the environment put at a.b.

    Names without a double underscore are not configuration keys and are left alone.

    Raises:
        ConfigError: the file cannot be read as YAML sections at all.
    """
    source = Source()
    node = _compose(path)
    tree = {} if node is None else _plain(node, (), source)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: line 1: write sections, such as node: and storage:")
    source.tree = tree
    for name, value in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            _put(source, name, value)
    return source


def _compose(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name the file with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: save it as UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        problem = f"{error.problem or error.context}; correct the YAML here"
        raise ConfigError(f"{path}: {_line(error.problem_mark)}: {problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error


def _line(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}" if mark else "line 1"


def _plain(node: yaml.Node, path: KeyPath, source: Source) -> Any:
    """The node as dict, list, text or None; its places are noted on the way."""
    source.places.setdefault(path, _line(node.start_mark))
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(node, path, source)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), source) for i, item in enumerate(node.value)]
    return None if node.tag == _NULL else node.value


def _plain_mapping(node: yaml.MappingNode, path: KeyPath, source: Source) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key_node, value_node in node.value:
        below = (*path, str(key_node.value))
        source.places[below] = _line(key_node.start_mark)
        if key_node.value in plain:
            source.blame(below, "stands twice; keep one of them")
        value = _plain(value_node, below, source)
        if value is not None:  # a key without a value is as good as absent
            plain[str(key_node.value)] = value
    return plain


def _put(source: Source, name: str, value: str) -> None:
    """Put the value of one environment variable where its name says."""
    *above, last = name.removeprefix(ENVIRONMENT_PREFIX).split("__")
    holder: Any = source.tree
    path: KeyPath = ()
    for part in above:
        key = _key_in(holder, part)
        path = (*path, key)
        if isinstance(holder, dict):
            holder.setdefault(key, {})
        holder = holder[key] if _holds(holder, key) else None
    key = _key_in(holder, last)
    if not isinstance(holder, dict) and not _holds(holder, key):
        source.faults.append(f"{name}: {dotted(path)} has no {last}; change it in the file")
        return
    holder[key] = _value(source, name, value)
    path = (*path, key)
    kept = {at: place for at, place in source.places.items() if at[: len(path)] != path}
    source.places = {**kept, path: name}


def _holds(holder: Any, key: str | int) -> bool:
    if isinstance(holder, list):
        return isinstance(key, int) and key < len(holder)
    return isinstance(holder, dict) and key in holder


def _key_in(holder: Any, part: str) -> str | int:
    """The key that an upper-case name means: as it is spelt where it exists, else lower case."""
    if isinstance(holder, list) and part.isdecimal():
        return int(part)
    known = holder if isinstance(holder, dict) else ()
    return next((key for key in known if key.lower() == part.lower()), part.lower())


def _value(source: Source, name: str, value: str) -> Any:
    """Text as it is; a list or mapping where it is written in YAML's flow style."""
    if not value.startswith(("[", "{")):
        return value
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if node is None:
        source.faults.append(f"{name}: write a list as [a, b], a mapping as {{a: b}}")
        return value
    return _plain(node, (), Source())
