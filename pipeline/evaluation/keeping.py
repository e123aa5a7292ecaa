"""Edits that are kept on disk, so that an evaluation of hours goes on after it was stopped.

Making the edits of films takes nearly all of an evaluation's time, and neither thresholds nor
probabilities have a part in them: calibrated anew, a model is judged by the edits already made.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline import digest, prompts, settings
from pipeline.explainer import METHOD_VERSION, Evidence
from pipeline.settings import Settings
from pipeline.training import files
from pipeline.training.kept import digest_of
from pipeline.types import Image, Mode

_MASKS = ("lungs",)
_NUMBERS = ("diffuse",)


class Keeper:
    """Keeps the edits of one model in a folder, one file an edit, some 3 MB each."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder, self._origin = folder, origin(model)

    def evidence(
        self, film: Image, mode: Mode, *, free: bool, make: Callable[[], Evidence]
    ) -> Evidence:
        """The edit of this film; made first where none is kept, or one that cannot be read."""
        name = digest_of(film, str(mode), str(free), self._origin)
        path = self._folder / name[:2] / f"{name}.safetensors"
        try:
            return _read(path)
        except (OSError, SafetensorError, LookupError):
            made = make()
        with files.whole(path) as scratch:
            save_file(dict(_parts(made)), scratch)
        return made


def origin(model: Path) -> str:
    """SHA-256 of all that has a part in an edit: method, weights, prompts, settings but for those
    by which a map is read.
    """
    said = replace(
        settings.read(model),
        version="",
        limits=Settings().limits,
        calibrated=Settings().calibrated,
        paper=Settings().paper,
    )
    weights = {
        name: found
        for name, found in digest.file_digests(model).items()
        if name not in (digest.SETTINGS, digest.CALIBRATION)
    }
    form = [known.name for known in fields(Evidence)]
    parts = (METHOD_VERSION, form, prompts.load().digest, asdict(said), sorted(weights.items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _parts(made: Evidence) -> Iterator[tuple[str, Image]]:
    for known in fields(made):
        value = getattr(made, known.name)
        if value is not None:
            yield known.name, np.ascontiguousarray(value, np.float32)


def _read(path: Path) -> Evidence:
    parts: dict[str, Any] = dict(load_file(path))
    for name in _MASKS:
        parts[name] = np.asarray(parts[name], np.float32) > 0
    for name in _NUMBERS:
        if name in parts:
            parts[name] = float(parts[name].item())
    parts |= {known.name: None for known in fields(Evidence) if known.name not in parts}
    return Evidence(**parts)
