"""Edits that are kept on disk, so that an evaluation of hours goes on after it was stopped.

Making the edits of films takes nearly all of an evaluation's time, and neither thresholds nor
probabilities have a part in them: calibrated anew, a model is judged by the edits already made.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.evidence import Evidence
from pipeline.training import files, kept
from pipeline.types import Image, Mode

_MASKS = ("lungs",)


class Keeper:
    """Keeps the edits of one model in a folder, one file an edit, some 3 MB each."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder, self._origin = folder, kept.origin_of_edits(model)

    def evidence(
        self, film: Image, mode: Mode, *, free: bool, make: Callable[[], Evidence]
    ) -> Evidence:
        """The edit of this film; made first where none is kept, or one that cannot be read."""
        name = kept.digest_of(film, str(mode), str(free), self._origin)
        path = self._folder / name[:2] / f"{name}.safetensors"
        try:
            return _read(path)
        except (OSError, SafetensorError, LookupError):
            made = make()
        with files.whole(path) as scratch:
            save_file(dict(_parts(made)), scratch)
        return made


def _parts(made: Evidence) -> Iterator[tuple[str, Image]]:
    for known in fields(made):
        value = getattr(made, known.name)
        if value is not None:
            yield known.name, np.ascontiguousarray(value, np.float32)


def _read(path: Path) -> Evidence:
    parts: dict[str, Any] = dict(load_file(path))
    for name in _MASKS:
        parts[name] = np.asarray(parts[name], np.float32) > 0
    parts |= {known.name: None for known in fields(Evidence) if known.name not in parts}
    return Evidence(**parts)
