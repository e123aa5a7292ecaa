"""Films from files: DICOM by way of the decoder process, PNG and JPEG directly."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from dicom_node.decoder import Decoder
from dicom_node.errors import DecoderError, InputError
from dicom_node.radiograph import Film
from pipeline.types import Radiograph

_PICTURES = {".png", ".jpg", ".jpeg"}
_LEAST_SIDE_PX, _MOST_SIDE_PX = 128, 20_000  # as for DICOM films
_DECODE_TIMEOUT_S, _DECODE_MEMORY_BYTES = 120.0, 8 << 30
WHITE_OF_16_BITS = 65535.0
_LEAST_WHITE_OF_16_BITS = 1 << 14  # what has 14 bits or fewer ends below it
# The same quarter. Of some 9,000 films of public sources all but one reach 85, and that one 54:
# what ends below is another picture's greys, and what is found on them is less than is there.
_LEAST_WHITE_OF_8_BITS = 1 << 6
_MARKS = 1.0  # per cent of a film: a letter burnt into a dark film is white, and lights nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmFile:
    """A film as it is analysed, and its DICOM source where it has one."""

    radiograph: Radiograph
    source: Film | None

    def as_stored(self, plane: np.ndarray) -> np.ndarray:
        """A plane of the upright film in the file's own rows and columns."""
        turn = self.source.header.orientation.to_source if self.source else np.asarray
        return np.ascontiguousarray(turn(plane))


class FilmReader:
    """Reads film files; DICOM is decoded in a process of its own, which close() ends."""

    def __init__(self) -> None:
        self._decoder = Decoder(timeout_s=_DECODE_TIMEOUT_S, memory_bytes=_DECODE_MEMORY_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._decoder.close()

    def read(self, file: Path) -> FilmFile:
        """The film in a file.

        Raises:
            InputError: it is no film that can be analysed; the message says why.
            OSError: it cannot be opened.
        """
        if file.suffix.lower() in _PICTURES:
            return FilmFile(radiograph=_read_picture(file), source=None)
        try:
            film = self._decoder.read(file)
        except DecoderError as fault:  # nobody comes back to it here
            raise InputError(str(fault)) from fault
        return FilmFile(radiograph=film.radiograph, source=film)


def made_folder(path: Path) -> None:
    """The folder is there, so that what is made at some cost can be written.

    Raises:
        InputError: it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{path}: no folder can be made there: {fault.strerror}") from fault


def _read_picture(file: Path) -> Radiograph:
    """A PNG or JPEG as a film; 16-bit greys keep their depth.

    Raises:
        InputError: it cannot be decoded, is in colour, black and white alone or see-through, too
            small, too large, or constant, has fewer bits than it says, or is almost black.
    """
    try:
        with Pillow.open(file) as picture_file:
            _demand_size(*picture_file.size)
            plane = _grey(picture_file)
    except (
        UnidentifiedImageError,
        SyntaxError,
        ValueError,  # such as a compressed comment that swells without end
        Pillow.DecompressionBombError,
    ) as fault:
        raise InputError(f"not a readable picture: {fault}") from fault
    except OSError as fault:
        if fault.errno is not None:  # the disk's fault, not the picture's
            raise
        raise InputError(f"not a readable picture: {fault}; export or copy it again") from fault
    if plane.min() == plane.max():
        raise InputError("constant image: every pixel has the same value")
    return Radiograph(pixels=plane)


def _grey(image: Pillow.Image) -> np.ndarray:
    _demand_greys(image)
    if image.mode.startswith("I"):
        return _sixteen_bits(np.asarray(image, np.float32))
    rgb = np.asarray(image.convert("RGB"), np.float32) / 255
    if np.ptp(rgb, axis=2).max() > 0.1:  # JPEG leaves greys with a trace of colour
        raise InputError(
            "the picture is in colour, and a radiograph is grey: give the film's DICOM file, or "
            "export it again in greys, without coloured marks"
        )
    plane = np.asarray(rgb.mean(2), np.float32)
    _demand_light(plane)
    return plane


def _demand_light(plane: np.ndarray) -> None:
    brightest = round(_brightest(plane) * 255)
    if plane.min() != plane.max() and brightest < _LEAST_WHITE_OF_8_BITS:
        raise InputError(
            f"8-bit picture whose brightest greys, but for {_MARKS:.0f} % of it, are {brightest} "
            "of 255: it is too dark to be read as a film; stretch it to the whole range, or give "
            "the DICOM file"
        )


def _brightest(plane: np.ndarray) -> float:
    """What the film's own greys reach; marks are left out."""
    return float(np.percentile(plane, 100 - _MARKS))


def _demand_greys(image: Pillow.Image) -> None:
    if image.mode == "1":
        raise InputError("a picture of black and white alone: a radiograph has greys")
    demand_opaque(image)


def demand_opaque(image: Pillow.Image) -> None:
    """Nothing of the picture is see-through.

    Raises:
        InputError: parts of it are.
    """
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise InputError("parts of the picture are see-through: save it without transparency")


def _sixteen_bits(plane: np.ndarray) -> np.ndarray:
    """The scanner's 10, 12 or 14 bits in a file of 16 would be read as a film that is almost black,
    and which of them was meant the file does not say."""
    brightest = round(_brightest(plane))
    if plane.min() != plane.max() and brightest < _LEAST_WHITE_OF_16_BITS:
        raise InputError(
            f"16-bit picture whose brightest greys, but for {_MARKS:.0f} % of it, are {brightest} "
            "of 65535: it holds fewer bits than it says; stretch it to the whole range, or give "
            "the DICOM file"
        )
    return plane / np.float32(WHITE_OF_16_BITS)


def _demand_size(cols: int, rows: int) -> None:
    if min(rows, cols) < _LEAST_SIDE_PX:
        raise InputError(f"too small: {rows} x {cols} pixels, at least {_LEAST_SIDE_PX} a side")
    if max(rows, cols) > _MOST_SIDE_PX:
        raise InputError(f"too large: {rows} x {cols} pixels, at most {_MOST_SIDE_PX} a side")
