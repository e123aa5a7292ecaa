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
from dicom_node.results import canvas, colour
from dicom_node.results.colour import Pixels
from pipeline.types import Image

DOCUMENTS = frozenset(
    {uid.ComprehensiveSRStorage, uid.BasicTextSRStorage, uid.KeyObjectSelectionDocumentStorage}
)
"""Results that are text (see results.reading)."""

_LEAST_SHOWN = 1e-3
"""Of a map's top: below it nothing is coloured."""
_LABEL_OFFSET_PX = 4


def as_picture(ds: Dataset, film: Film | None) -> Pixels:
    """The object as [rows, cols, 3] RGB.

    Raises:
        InputError: it is no image of this node, nor a presentation state.
    """
    match ds.get("SOPClassUID"):
        case uid.SecondaryCaptureImageStorage:
            return _captured(ds)
        case uid.SegmentationStorage | uid.ParametricMapStorage:
            return _map(ds, film)
        case uid.GrayscaleSoftcopyPresentationStateStorage:
            return _outlines(ds, film)
    raise InputError("It is neither a result of this node nor a radiograph.")


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


def _map(ds: Dataset, film: Film | None) -> Pixels:
    """The map in the fixed colour scale over the film."""
    values = _fractions(ds)
    return colour.over(_ground(film, *values.shape), values, _LEAST_SHOWN, 1.0)


def _fractions(ds: Dataset) -> Image:
    """All segments, or the values as part of the highest, in one plane of 0 .. 1."""
    frames = np.asarray(ds.pixel_array, np.float32)
    plane = frames if frames.ndim == 2 else frames.max(0)
    top = float(ds.get("MaximumFractionalValue") or max(float(plane.max()), 1e-6))
    return np.asarray(plane / np.float32(top), np.float32)


def _outlines(ds: Dataset, film: Film | None) -> Pixels:
    """Every outline with its number, in the layers' order (PS3.3 C.10.5)."""
    columns, rows = ds.DisplayedAreaSelectionSequence[0].DisplayedAreaBottomRightHandCorner
    image = Pil.fromarray(_ground(film, int(rows), int(columns)))
    draw = ImageDraw.Draw(image)
    for annotation in ds.get("GraphicAnnotationSequence") or ():
        for graphic in annotation.get("GraphicObjectSequence") or ():
            draw.line(_corners(graphic), fill=canvas.AMBER, width=max(1, int(columns) // 600))
        for text in annotation.get("TextObjectSequence") or ():
            if "AnchorPoint" in text:
                x, y = text.AnchorPoint
                at = (x + _LABEL_OFFSET_PX, y)
                canvas.label(draw, str(text.UnformattedTextValue), *at, image.size)
    return np.asarray(image, np.uint8)


def _corners(graphic: Dataset) -> list[tuple[float, float]]:
    """(x, y) of a drawing whose pixels are points: a continuous x lies in pixel x - 0.5."""
    points: npt.NDArray[np.float64] = np.array(graphic.GraphicData, np.float64).reshape(-1, 2)
    return [(x - 0.5, y - 0.5) for x, y in points.tolist()]
