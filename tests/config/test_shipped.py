"""config.yaml as it is shipped: usable, and complete as documentation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from dicom_node import config
from dicom_node.config import NodeConfig
from dicom_node.results import registry
from dicom_node.routing import guards
from pipeline.types import Mode
from tests.conftest import REPOSITORY

SHIPPED = REPOSITORY / "config.yaml"


def test_the_shipped_file_can_be_used() -> None:
    read = config.load(SHIPPED, {})
    assert read.node.ae_title == "VALD"
    assert read.rules[0].match == {"Modality": ("CR", "DX", "RG")}
    assert read.storage.database == f"sqlite:///{REPOSITORY}/var/vald.db"
    assert read.storage.objects == f"{REPOSITORY}/var/objects"


def test_every_key_is_in_the_shipped_file() -> None:
    written = set(_paths(yaml.safe_load(SHIPPED.read_text())))
    # What senders, rules, TLS and DICOMweb may hold stands in comments and in the one rule.
    certificates = {"authority", "certificate", "key"}
    fields = {name for name in _fields(NodeConfig) if not name.startswith("dicomweb.")}
    assert fields - written == {
        *("node.accept.ae_title", "node.accept.host", "destinations.tls.host"),
        *("node.status.host", "node.status.port"),
        *(f"{place}.tls.{name}" for place in ("node", "destinations") for name in certificates),
    }


def test_every_key_of_a_dicomweb_server_stands_in_a_comment() -> None:
    section = next(s for s in SHIPPED.read_text().split("\n\n") if s.endswith("dicomweb: {}"))
    assert all(f"{name}" in section for name in config.DicomWeb.model_fields)


def test_every_key_of_the_shipped_file_has_a_comment_in_its_section() -> None:
    sections = SHIPPED.read_text().split("\n\n")
    assert all("#" in section for section in sections if not section.startswith("logging"))


def test_what_has_a_default_is_shipped_with_it(tmp_path: Path) -> None:
    shipped = yaml.safe_load(SHIPPED.read_text())
    least = {
        "node": {"accept": "any"},
        "storage": shipped["storage"],
        "destinations": shipped["destinations"],
        "rules": [{k: v for k, v in shipped["rules"][0].items() if k != "waive"}],
    }
    file = tmp_path / "least.yaml"
    file.write_text(yaml.safe_dump(least))
    skipped = {"storage"}  # its paths start at another folder
    assert config.load(file, {}).model_dump(exclude=skipped) == config.load(SHIPPED, {}).model_dump(
        exclude=skipped
    )


def test_names_of_guards_results_and_modes_are_those_there_are() -> None:
    assert set(config.GUARDS) == set(guards.GUARDS)
    assert set(config.RESULTS) == set(registry.KINDS)
    assert set(get_args(config.Model.model_fields["mode"].annotation)) == set(Mode)


def _fields(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Dotted paths of all keys; through lists and mappings as if they were not there."""
    for name, field in model.model_fields.items():
        path = f"{above}.{name}".removeprefix(".")
        inner = list(_models(field.annotation))
        if not inner:
            yield path
        for section in inner:
            yield from _fields(section, path)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _paths(tree: Any, above: str = "") -> Iterator[str]:
    yield above
    if isinstance(tree, list):
        for item in tree:
            yield from _paths(item, above)
    if isinstance(tree, dict):
        for key, value in tree.items():
            # The names of destinations are the administrator's.
            inner = list(value.values()) if key == "destinations" and not above else value
            yield from _paths(inner, f"{above}.{key}".removeprefix("."))
