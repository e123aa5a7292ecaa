"""What is made once and kept in a work folder, for as long as what it was made of is the same.

A pool names captions by their places, and lungs belong to films by theirs: read beside others they
would teach something else, and nothing would show it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipeline import digest, probe, prompts, settings
from pipeline.evidence import Evidence
from pipeline.explainer import EDIT_VERSION
from pipeline.settings import Settings
from pipeline.training import files, ranks

Tensors = dict[str, torch.Tensor]
Make = Callable[[], Tensors]


def tensors(
    path: Path,
    origin: Mapping[str, str],
    make: Make,
    tell: Callable[[str], None],
) -> Tensors:
    """What is kept at `path`; made first where there is none, or one of another origin."""
    with ranks.first_goes_first():
        if ranks.is_first() and (why := _why_not(path, origin)):
            tell(f"{path.stem} is made: {why}")
            with files.whole(path) as scratch:
                save_file(make(), scratch, metadata=dict(origin))
    return load_file(path)


def of_film(
    folder: Path, parts: Sequence[npt.NDArray[np.generic] | str], origin: str, make: Make
) -> Tensors:
    """What is kept in `folder` of one film and question; made first where none of `origin` is."""
    path = folder / f"{digest_of(*parts)}.safetensors"
    return tensors(path, {"model": origin}, make, lambda _: None)


def digest_of(*parts: npt.NDArray[np.generic] | str | Path) -> str:
    """SHA-256 of arrays, words and the contents of files, in this order."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            whole.update(f"{part.shape}{part.dtype}".encode())
            whole.update(np.ascontiguousarray(part).data)
        else:
            content = part.read_bytes() if isinstance(part, Path) else part.encode()
            whole.update(hashlib.sha256(content).digest())
    return whole.hexdigest()


def origin_of_edits(model: Path) -> str:
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
        if name not in (digest.SETTINGS, digest.CALIBRATION, probe.FILE)
    }
    form = [known.name for known in fields(Evidence)]
    parts = (EDIT_VERSION, form, prompts.load().digest, asdict(said), sorted(weights.items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _why_not(path: Path, origin: Mapping[str, str]) -> str:
    """Why the file is not to be used; empty if it is."""
    if not path.exists():
        return "there is none yet"
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
    except (SafetensorError, OSError) as fault:
        return f"it cannot be read ({fault})"
    changed = sorted(name for name, value in origin.items() if found.get(name) != value)
    return f"it was made of other {', '.join(changed)}" if changed else ""
