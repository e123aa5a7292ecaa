"""What several tests of the pipeline share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline import prompts

EditPrompts = Callable[..., None]
"""Takes edits (old, new): the shipped prompts with these are in use until the test ends."""


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine a second thread is mostly waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def edit_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EditPrompts]:
    shipped, path = prompts.FILE.read_text(encoding="utf-8"), tmp_path / "prompts.yaml"

    def edit(*edits: tuple[str, str]) -> None:
        text = shipped
        for old, new in edits:
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text, encoding="utf-8")
        prompts.load.cache_clear()

    monkeypatch.setattr(prompts, "FILE", path)
    edit()
    yield edit
    prompts.load.cache_clear()
