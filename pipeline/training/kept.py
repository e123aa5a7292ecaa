"""What is made once and kept in a work folder, for as long as what it was made of is the same.

A pool names captions by their places, and lungs belong to films by theirs: read beside others they
would teach something else, and nothing would show it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipeline import digest, probe, prompts, settings
from pipeline.evidence import Evidence
from pipeline.explainer import EDIT_VERSION
from pipeline.training import files, ranks
from pipeline.training.budget import Budget, OutOfTimeError
from pipeline.training.pace import Pace
from pipeline.training.session import Progress

_READ_BY = ("version", "words", "limits", "calibrated", "paper")
"""Settings that have no part in an edit."""

Tensors = dict[str, torch.Tensor]
Make = Callable[[], Tensors]
MakePart = Callable[[int, Callable[[int], None]], Tensors]
"""Makes the part of a number, and tells how much of it there is by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A folder where what is made once is kept, who is told of it, and what time it may take."""

    folder: Path
    progress: Progress = lambda *_: None
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What something long is made in: how much each part holds, and what each is made of."""

    what: str
    sizes: Sequence[int]
    origins: Sequence[Mapping[str, str]]


def in_parts(shelf: Shelf, parts: Parts, make: MakePart) -> Tensors:
    """All parts, one after another; those first made that are missing, or of another origin.

    Each part is there whole or not at all, so that a kill costs the one that was being made.

    Raises:
        OutOfTimeError: the minutes are spent, and there are parts to make.
    """
    pace = Pace(parts.what, sum(parts.sizes), shelf.progress)
    if not _first_makes(lambda: _make_missing(shelf, parts, make, pace)):
        raise _out_of_time(pace)
    return _joined(_paths(shelf, parts), sum(parts.sizes))


class FilmByFilm:
    """What is made of one film after another and kept on a shelf, each in a file of its own."""

    def __init__(self, shelf: Shelf, what: str, films: int, origin: str) -> None:
        self._shelf, self._origin = shelf, {"model": origin}
        self._pace, self._done = Pace(what, films, shelf.progress), 0

    def of(self, parts: Sequence[npt.NDArray[np.generic] | str], make: Make) -> Tensors:
        """What is kept of the next film and question; made first where none of the origin is.

        Raises:
            OutOfTimeError: the minutes are spent, and it is to be made.
        """
        path = self._shelf.folder / f"{digest_of(*parts)}.safetensors"
        if not _first_makes(lambda: self._found_or_made(path, make)):
            raise _out_of_time(self._pace)
        self._done += 1
        return load_file(path)

    def _found_or_made(self, path: Path, make: Make) -> bool:
        if not _why_not(path, self._origin):
            self._pace.found(1)
            return True
        if self._shelf.budget.is_spent:
            return False
        with self._shelf.budget.making():
            _keep(path, self._origin, make())
        self._pace(self._done + 1)
        return True


def _make_missing(shelf: Shelf, parts: Parts, make: MakePart, pace: Pace) -> bool:
    """Whether all parts are there in the end."""
    paths = _paths(shelf, parts)
    whys = [_why_not(path, made_of) for path, made_of in zip(paths, parts.origins, strict=True)]
    there = sum(size for size, why in zip(parts.sizes, whys, strict=True) if not why)
    pace.found(there)
    if any(whys):
        why = next(filter(None, whys))
        shelf.progress(there / sum(parts.sizes), f"{shelf.folder.name} is made: {why}")
    for number in (number for number, why in enumerate(whys) if why):
        if shelf.budget.is_spent:
            return False
        with shelf.budget.making():
            _keep(paths[number], parts.origins[number], make(number, pace.after(there)))
        there += parts.sizes[number]
        pace(there)
    return True


def _paths(shelf: Shelf, parts: Parts) -> list[Path]:
    return [shelf.folder / f"{number:04}.safetensors" for number in range(len(parts.sizes))]


def _keep(path: Path, origin: Mapping[str, str], made: Tensors) -> None:
    with files.whole(path) as scratch:
        save_file(made, scratch, metadata=dict(origin))


def _joined(paths: Sequence[Path], length: int) -> Tensors:
    """The tensors of all files, one after another; beside them one file's at a time, no more."""
    whole: Tensors = {}
    begin = 0
    for path in paths:
        begin = _copied(path, whole, begin, length)
    return whole


def _copied(path: Path, whole: Tensors, begin: int, length: int) -> int:
    """Where the file's rows end in `whole`, which has them now."""
    end = begin
    for name, value in load_file(path).items():
        if name not in whole:
            whole[name] = torch.empty((length, *value.shape[1:]), dtype=value.dtype)
        end = begin + len(value)
        whole[name][begin:end] = value
    return end


def _first_makes(job: Callable[[], bool]) -> bool:
    """What the job says in the first process, which does it; the others wait, and are told."""
    done = True
    with ranks.first_goes_first():
        if ranks.is_first():
            done = job()
    return bool(ranks.of_the_first(done))


def _out_of_time(pace: Pace) -> OutOfTimeError:
    return OutOfTimeError(
        f"the minutes are spent, and what was made is kept: {pace}; run the command again to go on"
    )


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
    said = asdict(settings.read(model))
    made_by = {name: value for name, value in said.items() if name not in _READ_BY}
    weights = {
        name: found
        for name, found in digest.file_digests(model).items()
        if name not in (digest.SETTINGS, digest.CALIBRATION, probe.FILE)
    }
    form = [known.name for known in fields(Evidence)]
    parts = (EDIT_VERSION, form, prompts.load().digest, made_by, sorted(weights.items()))
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
