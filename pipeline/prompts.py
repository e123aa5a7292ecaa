"""The prompts, from the one file that a radiologist can read and edit."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from pipeline.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Sentences by use, with `{view}`, `{zone}` and `{finding}` still open."""

    normal: tuple[str, ...]
    induced: str
    labelled: str
    views: tuple[str, ...]
    default_view: str
    findings: tuple[str, ...]
    zones: tuple[str, ...]

    def normal_prompts(self, view: str = "") -> tuple[str, ...]:
        """The paraphrases of "normal" for a view."""
        return tuple(text.format(view=view or self.default_view) for text in self.normal)

    def induced_prompt(self, zone: str, finding: str, view: str = "") -> str:
        """The prompt of one finding in one zone."""
        return self.induced.format(view=view or self.default_view, zone=zone, finding=finding)

    def labelled_prompt(self, finding: str, view: str = "") -> str:
        """The prompt of a finding whose place is not known."""
        return self.labelled.format(view=view or self.default_view, finding=finding)


@cache
def load() -> Prompts:
    """The prompts that ship with the package.

    Raises:
        ModelError: the file lacks a key or has one that is not known.
    """
    text = resources.files("pipeline").joinpath("prompts.yaml").read_text(encoding="utf-8")
    read: dict[str, Any] = yaml.safe_load(text)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in read.items()}
    try:
        return Prompts(**values)
    except TypeError as fault:
        raise ModelError(f"prompts.yaml: {fault}") from fault
