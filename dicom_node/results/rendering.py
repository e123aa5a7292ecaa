"""Any result as a picture for people: what a viewer without that object's support would miss.

What lies on the film is drawn in the film's stored pixels; over the film itself where it is given.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image as Pil
from PIL import ImageDraw
from pydicom import Dataset, uid

from dicom_node.errors import InputError
from dicom_node.radiograph import Film
from dicom_node.results import canvas, colour, picture, segmentation_map
from dicom_node.results.colour import Pixels
from pipeline.types import Image

DOCUMENTS = frozenset(
    {uid.ComprehensiveSRStorage, uid.BasicTextSRStorage, uid.KeyObjectSelectionDocumentStorage}
)
"""Results that are text (see results.reading)."""

_LEAST_SHOWN = 1e-3
"""Below it nothing is a segment's."""
_LABEL_OFFSET_PX = 4
_LETTER_PART = 0.8
"""Of a line's height: its letters."""
_LEAST_LETTER_PX = 8
_RIM_PX = 2


def as_picture(ds: Dataset, film: Film | None) -> Pixels:
    """The object as [rows, cols, 3] RGB, with the words that must be seen.

    Raises:
        InputError: it is no image of this node, nor a presentation state; or of another film.
    """
    if film is not None:
        _check_film(ds, film)
    match ds.get("SOPClassUID"):
        case uid.SecondaryCaptureImageStorage:
            return _captured(ds)
        case uid.SegmentationStorage:
            return picture.with_banner(_segments(ds, film))
        case uid.ParametricMapStorage:
            return picture.with_banner(_map(ds, film))
        case uid.GrayscaleSoftcopyPresentationStateStorage:
            return picture.with_banner(_annotations(ds, film))
    raise InputError("It is neither a result of this node nor a radiograph.")


def _check_film(ds: Dataset, film: Film) -> None:
    """It refers to the film: on another, of the same size, it would mark what is not there."""
    uids = {item.value for item in ds.iterall() if item.keyword == "ReferencedSOPInstanceUID"}
    if film.header.dataset.SOPInstanceUID not in uids:
        raise InputError("It is not of the film that was given.")


def film_picture(film: Film) -> Pixels:
    """The film alone, as it is stored, in its own grey scale."""
    return _ground(film, *film.header.orientation.to_source(film.radiograph.pixels).shape)


def _captured(ds: Dataset) -> Pixels:
    pixels = np.asarray(ds.pixel_array)
    return (pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, -1)).astype(np.uint8)


def _ground(film: Film | None, rows: int, columns: int) -> Pixels:
    """The film's stored pixels as grey, or black where it is not given or of another size."""
    if film is None or (film.header.rows, film.header.columns) != (rows, columns):
        return np.zeros((rows, columns, 3), np.uint8)
    stored = film.header.orientation.to_source(film.radiograph.pixels)
    grey = np.rint(np.clip(stored, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(grey[..., None].repeat(3, -1))


def _segments(ds: Dataset, film: Film | None) -> Pixels:
    """The segments over the film: of a fractional one, what is reported."""
    values = _fractions(ds)
    least = segmentation_map.reported_from(ds) or _LEAST_SHOWN
    return colour.over(_ground(film, *values.shape), values, least, 1.0)


def _fractions(ds: Dataset) -> Image:
    """All segments in one plane of 0 .. 1."""
    plane = _plane(ds)
    return np.asarray(plane / np.float32(ds.get("MaximumFractionalValue") or 1), np.float32)


def _plane(ds: Dataset) -> Image:
    """The highest value of all frames at each pixel."""
    frames = np.asarray(ds.pixel_array, np.float32)
    return frames if frames.ndim == 2 else np.asarray(frames.max(0), np.float32)


def _map(ds: Dataset, film: Film | None) -> Pixels:
    """The map over the film, in the object's own window: the same for every film of a model."""
    values = _plane(ds)
    window = ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    middle, half = float(window.WindowCenter), float(window.WindowWidth) / 2
    return colour.over(_ground(film, *values.shape), values, middle - half, middle + half)


def _annotations(ds: Dataset, film: Film | None) -> Pixels:
    """Every outline with its number, and the words, in the layers' order (PS3.3 C.10.5)."""
    columns, rows = ds.DisplayedAreaSelectionSequence[0].DisplayedAreaBottomRightHandCorner
    image = Pil.fromarray(_ground(film, int(rows), int(columns)))
    draw = ImageDraw.Draw(image)
    for annotation in ds.get("GraphicAnnotationSequence") or ():
        for graphic in annotation.get("GraphicObjectSequence") or ():
            draw.line(_corners(graphic), fill=canvas.AMBER, width=max(1, int(columns) // 600))
        for text in annotation.get("TextObjectSequence") or ():
            if "AnchorPoint" in text:
                _draw_number(draw, text, image.size)
            else:
                _draw_words(draw, text)
    return np.asarray(image, np.uint8)


def _draw_number(draw: ImageDraw.ImageDraw, text: Dataset, size: tuple[int, int]) -> None:
    x, y = text.AnchorPoint
    canvas.label(draw, str(text.UnformattedTextValue), x + _LABEL_OFFSET_PX, y, size)


def _draw_words(draw: ImageDraw.ImageDraw, text: Dataset) -> None:
    """The lines, each as high as the box has room for."""
    left, top = text.BoundingBoxTopLeftHandCorner
    right, bottom = text.BoundingBoxBottomRightHandCorner
    lines = str(text.UnformattedTextValue).splitlines()
    high = (bottom - top) / max(1, len(lines))
    size, width = max(_LEAST_LETTER_PX, int(_LETTER_PART * high)), int(right - left)
    for number, line in enumerate(lines, start=1):
        at = (left, top + (number - 1 + _LETTER_PART) * high)
        canvas.text(draw, at, line, size=size, colour=canvas.BRIGHT, width=width, rim=_RIM_PX)


def _corners(graphic: Dataset) -> list[tuple[float, float]]:
    """(x, y) of a drawing whose pixels are points: a continuous x lies in pixel x - 0.5."""
    points: npt.NDArray[np.float64] = np.array(graphic.GraphicData, np.float64).reshape(-1, 2)
    return [(x - 0.5, y - 0.5) for x, y in points.tolist()]
