"""Digests of a model folder; needs no network library, so that every process may ask."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import prompts
from pipeline.errors import ModelError

EMBEDDED = Path(__file__).parent / "embedded"
SETTINGS = "vald.json"
CALIBRATION = "calibration.safetensors"
_DIGESTS = "digests.json"
_RUNS = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".py"}
"""Pickles and programs: what would run if anything ever loaded it."""
_COUNTED = {".json", ".safetensors", ".txt", ".model"}
_NAMES_PROGRAMS = "auto_map"
"""The key by which a configuration names a program, of this folder or of another repository, that
transformers would offer to run in the place of its own."""


def folder_of(path: str) -> Path:
    """The model folder that a configuration means: "embedded" or a path.

    Raises:
        ModelError: there is no such folder, or it is no diffusers folder.
    """
    folder = EMBEDDED if path == "embedded" else Path(path)
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} is no diffusers folder: it has no model_index.json")
    return folder


def model_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all weights, configurations and vocabularies, and the
    prompts: over all that decides what is made of a film, beside the method.

    Raises:
        ModelError: digests.json says otherwise, the folder holds or names what could run, a folder
            in it is a link, or the prompts cannot be used.
    """
    _refuse_what_runs(folder)
    _refuse_what_names_programs(folder)
    digests = file_digests(folder)
    expected = folder / _DIGESTS
    if expected.is_file():
        _compare(folder, read_object(expected), digests)
    parts = {**digests, prompts.FILE.name: prompts.load().digest}
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(parts.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a model folder's own file.

    Raises:
        ModelError: it holds none; the message names the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:  # the last of brackets without end
        raise ModelError(f"{path}: cannot be read: {fault}") from fault
    if not isinstance(values, dict):
        raise ModelError(f"{path}: a JSON object was expected")
    return values


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that decides what the model computes, by relative name."""
    files = (p for p in _files(folder) if p.suffix in _COUNTED and p.name != _DIGESTS)
    return {p.relative_to(folder).as_posix(): _sha256(p) for p in files if p.is_file()}


def _files(folder: Path) -> Iterator[Path]:
    """All that lie in the folder; `Path.rglob` passes over, in silence, what it cannot list.

    A link to a folder is not followed, as it may lead to where it lies; what is behind it would be
    in no digest, and yet be loaded. Links to files, as Hugging Face's cache has them, are read.

    Raises:
        ModelError: a folder cannot be listed, or is a link.
    """

    def refuse(fault: OSError) -> None:
        raise ModelError(f"{fault.filename}: cannot be read: {fault.strerror}") from fault

    for where, folders, names in os.walk(folder, onerror=refuse):
        _refuse_links(Path(where, name) for name in folders)
        yield from (Path(where, name) for name in names)


def _refuse_links(folders: Iterable[Path]) -> None:
    for path in sorted(folders):
        if path.is_symlink():
            raise ModelError(
                f"{path}: is a link to a folder, and what it leads to would be in no digest: put "
                "the folder itself there"
            )


def write_digests(folder: Path) -> str:
    """digests.json is written for the folder as it is; returns the model digest."""
    text = json.dumps(file_digests(folder), indent=1, sort_keys=True)
    (folder / _DIGESTS).write_text(text + "\n", encoding="utf-8")
    return model_digest(folder)


def _refuse_what_runs(folder: Path) -> None:
    found = sorted(p.relative_to(folder).as_posix() for p in _files(folder) if _runs(p))
    if found:
        raise ModelError(
            f"{folder}: holds {', '.join(found)}: pickled weights and programs can run anything "
            "and are never loaded; take them away and keep safetensors"
        )


def _refuse_what_names_programs(folder: Path) -> None:
    found = sorted(p.relative_to(folder).as_posix() for p in _files(folder) if _names_programs(p))
    if found:
        raise ModelError(
            f"{folder}: {', '.join(found)}: names programs ({_NAMES_PROGRAMS}), which can run "
            "anything and are never loaded; take that key away, if the model does without them"
        )


def _names_programs(path: Path) -> bool:
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        return _NAMES_PROGRAMS in read_object(path)
    except ModelError:  # nor can transformers read it; whoever needs it says so
        return False


def _runs(path: Path) -> bool:
    return path.suffix.lower() in _RUNS and path.is_file()


def _compare(folder: Path, expected: dict[str, str], found: dict[str, str]) -> None:
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        raise ModelError(
            f"{folder}: not the files that {_DIGESTS} lists: {', '.join(wrong)}; "
            "install the model again, or write new digests if you changed it on purpose"
        )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise ModelError(f"{path}: cannot be read: {fault.strerror}") from fault
