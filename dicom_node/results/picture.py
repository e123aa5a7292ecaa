"""The picture of a result: film, normal counterpart and attribution side by side, for people.

Everything is drawn upright, in square pixels, both films in one grey scale (0 black .. 1 white),
the map in one fixed colour scale. No patient data is drawn.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image as Pil
from PIL import ImageDraw

from dicom_node.results import canvas, colour, wording
from dicom_node.results.canvas import Box
from dicom_node.results.colour import Pixels
from pipeline.types import Attribution, Image, Radiograph, Region, Status

TITLES = ("Original film", "Normal counterpart (synthetic)", "Attribution")
ORIGINAL, COUNTERPART, OVERLAY = range(3)

_FILM_HEIGHT, _FILM_WIDTH = 1024, 1280
_LEAST_WIDTH = 480  # a panel's; a title must fit above it
_MARGIN, _GAP = 40, 24
_HEADER, _TITLE, _LEGEND, _FOOTER, _BANNER = 96, 58, 172, 108, 84
_SAID, _LINE = 26, 38  # words of a status: their size, and from line to line
_BAR_WIDTH = 26
_OUTLINE_SCALE = 2  # drawn twice as large and reduced: Pillow's lines are not smoothed


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things lie in the picture. `scale` is picture pixels a film pixel, down and across."""

    width: int
    height: int
    films: tuple[Box, Box, Box]
    scale: tuple[float, float]

    def point(self, panel: int, row: float, col: float) -> tuple[float, float]:
        """Where the film's point (row, col) lies in the picture's `panel`, (row, col)."""
        box = self.films[panel]
        return box.top + row * self.scale[0], box.left + col * self.scale[1]


def layout(radiograph: Radiograph) -> Layout:
    """The picture's layout for this film: 1024 px high, or less where it is very wide."""
    rows, cols = radiograph.pixels.shape
    down, across = radiograph.spacing_mm or (1.0, 1.0)
    fit = min(_FILM_HEIGHT / (rows * down), _FILM_WIDTH / (cols * across))
    height, width = max(1, round(rows * down * fit)), max(1, round(cols * across * fit))
    slot = max(width, _LEAST_WIDTH)
    top = _HEADER + _TITLE + (_FILM_HEIGHT - height) // 2
    lefts = (_MARGIN + panel * (slot + _GAP) + (slot - width) // 2 for panel in range(3))
    first, second, third = (Box(top=top, left=left, height=height, width=width) for left in lefts)
    return Layout(
        width=2 * _MARGIN + 3 * slot + 2 * _GAP + _LEGEND,
        height=_HEADER + _TITLE + _FILM_HEIGHT + _FOOTER + _BANNER,
        films=(first, second, third),
        scale=(height / rows, width / cols),
    )


def panels(radiograph: Radiograph, attribution: Attribution) -> Pixels:
    """The whole picture, [rows, cols, 3] uint8 RGB."""
    place = layout(radiograph)
    image = canvas.blank(place.height, place.width)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, place, attribution)
    for box, title in zip(place.films, TITLES, strict=True):
        canvas.title(draw, title, box.left, _HEADER + _TITLE - 16)
    _draw_films(image, place, radiograph, attribution)
    _draw_footer(draw, place, attribution)
    return np.asarray(image, np.uint8)


def film(radiograph: Radiograph) -> Pixels:
    """The film alone, as its panel shows it."""
    return _grey(radiograph.pixels, layout(radiograph).films[ORIGINAL])


def counterpart(radiograph: Radiograph, attribution: Attribution) -> Pixels:
    """The normal counterpart alone, in the film's own grey scale."""
    return _grey(attribution.counterfactual, layout(radiograph).films[COUNTERPART])


def overlay(radiograph: Radiograph, attribution: Attribution) -> Pixels:
    """The film with the map in colour over it and the regions outlined and numbered."""
    place = layout(radiograph)
    box = place.films[OVERLAY]
    values = _resized(attribution.attribution_map, box)
    coloured = colour.over(film(radiograph), values, attribution.threshold, attribution.scale_max)
    image = Pil.fromarray(coloured)
    for number, region in enumerate(attribution.regions, start=1):
        _draw_region(image, place.scale, region, number)
    return np.asarray(image, np.uint8)


def with_banner(pixels: Pixels) -> Pixels:
    """The picture, its place unchanged, and below it the words that must be seen."""
    height, width = pixels.shape[:2]
    image = canvas.blank(height + _BANNER, width)
    image.paste(Pil.fromarray(pixels), (0, 0))
    box = Box(top=height, left=0, height=_BANNER, width=width)
    canvas.banner(ImageDraw.Draw(image), box, wording.RESEARCH_WORDS)
    return np.asarray(image, np.uint8)


def with_status(pixels: Pixels, attribution: Attribution) -> Pixels:
    """The picture of a result over a banner; between them status and reasons, unless VALID."""
    if attribution.status is Status.VALID:
        return with_banner(pixels)
    height, width = pixels.shape[:2]
    said = f"{attribution.status.value}: {'; '.join(attribution.reasons)}"
    lines = canvas.lines(said, size=_SAID, width=width - 2 * _GAP)
    image = canvas.blank(height + _GAP + len(lines) * _LINE, width)
    image.paste(Pil.fromarray(pixels), (0, 0))
    draw, colour_of_it = ImageDraw.Draw(image), canvas.STATUS[attribution.status]
    for number, line in enumerate(lines, start=1):
        at = (_GAP, height + number * _LINE)
        canvas.text(draw, at, line, size=_SAID, colour=colour_of_it, width=width - 2 * _GAP)
    return with_banner(np.asarray(image, np.uint8))


def _draw_films(
    image: Pil.Image, place: Layout, radiograph: Radiograph, attribution: Attribution
) -> None:
    original, normal, marked = place.films
    image.paste(Pil.fromarray(film(radiograph)), (original.left, original.top))
    draw = ImageDraw.Draw(image)
    if attribution.status is Status.WITHHELD:
        for box in (normal, marked):
            canvas.notice(draw, box, "Withheld", "; ".join(attribution.reasons))
    else:
        shown = (counterpart(radiograph, attribution), overlay(radiograph, attribution))
        for box, pixels in zip((normal, marked), shown, strict=True):
            image.paste(Pil.fromarray(pixels), (box.left, box.top))
        _draw_legend(image, place, attribution)
    for box in place.films:
        canvas.frame(draw, box)


def _grey(pixels: Image, box: Box) -> Pixels:
    """0 black .. 1 white as 0 .. 255, at the box's size, three equal channels."""
    resized = np.clip(_resized(pixels, box), 0, 1)
    return np.rint(resized * 255).astype(np.uint8)[..., None].repeat(3, -1)


def _resized(pixels: Image, box: Box) -> Image:
    """Bilinear over the area of a target pixel: no ringing, so no grey that was not there."""
    source = Pil.fromarray(np.ascontiguousarray(pixels, np.float32))
    resized = source.resize((box.width, box.height), Pil.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def _draw_region(image: Pil.Image, scale: tuple[float, float], region: Region, number: int) -> None:
    points = [(col * scale[1], row * scale[0]) for row, col in region.outline]
    k = _OUTLINE_SCALE
    mask = Pil.new("L", (image.width * k, image.height * k))
    # A continuous coordinate x lies in pixel x - 0.5 of a drawing whose pixels are points.
    ImageDraw.Draw(mask).line(
        [(x * k - 0.5, y * k - 0.5) for x, y in points], fill=255, width=2 * k, joint="curve"
    )
    image.paste(canvas.OUTLINE, (0, 0), mask.resize(image.size, Pil.Resampling.BOX))
    x, y = max(x for x, _ in points), min(y for _, y in points)
    canvas.label(ImageDraw.Draw(image), str(number), x + 6, y - 6, image.size)


def _draw_header(draw: ImageDraw.ImageDraw, place: Layout, attribution: Attribution) -> None:
    canvas.text(draw, (_MARGIN, 58), "VALD", size=42, colour=canvas.BRIGHT)
    canvas.text(draw, (_MARGIN + 142, 58), "Visual attribution by latent diffusion", size=28)
    right = place.width - _MARGIN
    right = canvas.pill(
        draw, attribution.status.value, right, 48, canvas.STATUS[attribution.status]
    )
    if attribution.status is not Status.WITHHELD:
        said = f"Score {attribution.score:.2f}   Uncertainty {attribution.uncertainty:.3f}"
        canvas.text(draw, (right - 28, 58), said, size=30, colour=canvas.BRIGHT, anchor="rs")


def _draw_legend(image: Pil.Image, place: Layout, attribution: Attribution) -> None:
    """The colour bar with five numbers and the unit, right of the attribution panel."""
    left = place.width - _MARGIN - _LEGEND + 34
    top, height = _HEADER + _TITLE + 8, _FILM_HEIGHT - 16
    image.paste(Pil.fromarray(colour.bar(height, _BAR_WIDTH)), (left, top))
    draw = ImageDraw.Draw(image)
    canvas.frame(draw, Box(top=top, left=left, height=height, width=_BAR_WIDTH))
    low, high = attribution.threshold, attribution.scale_max
    for step in range(5):
        y = top + height * step / 4
        canvas.tick(draw, left + _BAR_WIDTH, y, f"{high - (high - low) * step / 4:.2f}")
    canvas.upward(image, wording.MAP_UNIT, left + _BAR_WIDTH + 80, top + height // 2)


def _draw_footer(draw: ImageDraw.ImageDraw, place: Layout, attribution: Attribution) -> None:
    top, width = place.height - _BANNER - _FOOTER, place.width - 2 * _MARGIN
    line = wording.model_line(attribution.model)
    canvas.text(draw, (_MARGIN, top + 44), line, size=26, width=width)
    canvas.text(draw, (_MARGIN, top + 84), _second_line(attribution), size=26, width=width)
    canvas.banner(
        draw,
        Box(top=place.height - _BANNER, left=0, height=_BANNER, width=place.width),
        wording.RESEARCH_WORDS,
    )


def _second_line(attribution: Attribution) -> str:
    """Why the status is what it is, or what the picture shows."""
    if attribution.reasons:
        return f"{attribution.status.value}: {'; '.join(attribution.reasons)}"
    count = len(attribution.regions)
    return (
        f"{count} region{'' if count == 1 else 's'} at or above "
        f"{attribution.threshold:.3g} {wording.MAP_UNIT}; nothing is coloured below it"
    )
