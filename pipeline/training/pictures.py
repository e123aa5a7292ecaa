"""Films for training and judging as pixels, read from archives and folders."""

import hashlib
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from pipeline.errors import DatasetError
from pipeline.preprocess import GRID, fitted
from pipeline.training import tables
from pipeline.training.dataset import LocalisedRow

_T = TypeVar("_T")

Films = npt.NDArray[np.uint8]
"""[n, GRID, GRID] uint8, 0 black .. 255 white, letterboxed."""

_TURNED = range(2, 9)  # of the EXIF orientation; 0 is written for one that is not known
_SMALLEST_PX = 32  # no lesion can be seen on less
_NO_ARCHIVE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
"""What is raised of archives that are damaged, or of which a part was never fetched."""
_UNREADABLE = (
    *_NO_ARCHIVE,
    KeyError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError,
    NotImplementedError,  # of a form of picture that Pillow knows by name alone
    RecursionError,  # of a member that is a link to itself
)  # fmt: skip
"""What archives and decoders raise of damaged files."""


def place_of(folder: Path, name: str) -> str:
    """Where a folder keeps pictures of a name: in an archive, in a folder, or beside its tables."""
    if (folder / f"{name}.tar").is_file():
        return f"{name}.tar"
    return name if (folder / name).is_dir() else ""


def names_in(folder: Path, place: str) -> list[str]:
    """What lies in an archive or a folder; nothing where neither is there.

    Raises:
        DatasetError: the archive cannot be read.
    """
    path = folder / place
    if path.is_dir():
        return [found.relative_to(path).as_posix() for found in path.rglob("*")]
    try:
        with tarfile.open(path) as archive:
            return archive.getnames()
    except FileNotFoundError:
        return []
    except _NO_ARCHIVE as fault:
        raise DatasetError(f"{path}: cannot be read as an archive: {fault}") from fault


def demand_films(folder: Path, members: Sequence[tuple[str, str]]) -> None:
    """Every film named by (archive or folder, file) is there.

    Raises:
        DatasetError: one is not; up to ten are named. Hours of training come before some are read.
    """
    there = {place: set(names_in(folder, place)) for place in {place for place, _ in members}}
    tables.refuse(folder, "no such archive or folder", sorted(p for p in there if not there[p]))
    missing = [f"{place or folder}:{file}" for place, file in members if file not in there[place]]
    tables.refuse(folder, "film missing", missing)


def demand_no_copies(
    folder: Path, members: Sequence[tuple[str, str]], splits: Sequence[str]
) -> None:
    """No two films of different splits are the same file, byte for byte.

    Raises:
        DatasetError: some are, or one cannot be read; up to ten are named, never whose they are.
    """
    found: dict[str, dict[str, list[str]]] = {}
    digests = _each(folder, members, lambda data, _: hashlib.sha256(data).hexdigest())
    for digest, (place, file), split in zip(digests, members, splits, strict=True):
        found.setdefault(digest, {}).setdefault(split, []).append(f"{place or folder}:{file}")
    copies = [names for sides in found.values() if len(sides) > 1 for names in sides.values()]
    tables.refuse(folder, "one film in more than one split", [n for ns in copies for n in ns])


def load_films(folder: Path, members: Sequence[tuple[str, str]]) -> Films:
    """The films named by (archive or folder, file), each scaled to the model grid.

    Raises:
        DatasetError: a film is missing, cannot be decoded, is blank, see-through or turned by its
            EXIF; up to ten are named.
    """
    return _loaded(folder, members, lambda image, _: _film(image))


def load_localised(folder: Path, rows: Sequence[LocalisedRow]) -> Films:
    """The films of these rows, each scaled to the model grid.

    Raises:
        DatasetError: as of `load_films`; or one is of another aspect than its table says, so that
            its boxes would lie elsewhere. Of another size it may be: boxes may be native pixels.
    """
    place = place_of(folder, "images")
    members = [(place, row.file) for row in rows]
    return _loaded(folder, members, lambda image, number: _film(image, rows[number].size))


def load_masks(folder: Path, members: Sequence[tuple[str, str]]) -> Films:
    """`load_films` for pictures of masks, which may be blank."""
    return _loaded(folder, members, lambda image, _: _to_grid(image))


def _loaded(
    folder: Path, members: Sequence[tuple[str, str]], scaled: Callable[[Image.Image, int], Films]
) -> Films:
    def decoded(data: bytes, number: int) -> Films:
        with Image.open(io.BytesIO(data)) as image:
            return scaled(image, number)

    films = np.zeros((len(members), GRID, GRID), np.uint8)
    for index, film in enumerate(_each(folder, members, decoded)):
        films[index] = film
    return films


def _each(
    folder: Path, members: Sequence[tuple[str, str]], read: Callable[[bytes, int], _T]
) -> Iterator[_T]:
    """What `read` makes of the bytes and the number of each member; once all have been tried,
    faults are told.
    """
    faults: list[str] = []
    archives: dict[str, tarfile.TarFile] = {}
    try:
        for number, (place, file) in enumerate(members):
            try:
                yield read(_bytes_of(folder, archives, place, file), number)
            except _UNREADABLE as fault:
                faults.append(f"{place or folder}:{file} ({fault or type(fault).__name__})")
    finally:
        for archive in archives.values():
            archive.close()
    tables.refuse(folder, "film missing or of no use", faults)


def _bytes_of(folder: Path, archives: dict[str, tarfile.TarFile], place: str, file: str) -> bytes:
    if (folder / place).is_dir():
        return (folder / place / file).read_bytes()
    if place not in archives:
        archives[place] = tarfile.open(folder / place)  # noqa: SIM115 - closed by _each
    member = archives[place].extractfile(file)
    if member is None:
        raise KeyError(file)
    return member.read()


def _film(image: Image.Image, size: tuple[float, float] | None = None) -> Films:
    """A film, of this aspect where it is told; refused as `vald-node attribute` refuses it."""
    if size is not None and not _alike(image.size, size):
        width, height = size
        raise ValueError(
            f"{image.width} x {image.height} pixels, and images.csv says {width:g} x {height:g}"
        )
    film = _to_grid(image)
    if np.ptp(np.asarray(image.convert("L"))) == 0:
        raise ValueError("blank: every pixel has the same value")
    return film


def _alike(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether both are of one aspect: a scaled picture's sides may be a pixel off."""
    (cols, rows), (width, height) = size, other
    return abs(cols * height - rows * width) <= width + height


def _to_grid(image: Image.Image) -> Films:
    if image.mode[0] in "IF":  # Pillow would cut what is above 255 off
        raise ValueError("more than 8 bits a pixel; scale it to 8")
    if image.getexif().get(ExifTags.Base.Orientation) in _TURNED:
        raise ValueError("its EXIF says that it is turned, which is not read; save it upright")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError("parts of it are see-through; save it without transparency")
    if min(image.size) < _SMALLEST_PX:
        raise ValueError(f"smaller than {_SMALLEST_PX} pixels")
    box = fitted(image.height, image.width)
    square = Image.new("L", (box.side, box.side))
    small = image.convert("L").resize((box.width, box.height), Image.Resampling.LANCZOS)
    square.paste(small, (box.left, box.top))
    return np.asarray(square)
