"""The pen: sober shapes and words on a dark ground, by Pillow and its own bundled font."""

from dataclasses import dataclass
from functools import cache

from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from dicom_node.results import wording
from pipeline.types import Status

Colour = tuple[int, int, int]

GROUND: Colour = (10, 13, 16)
LINE: Colour = (52, 61, 69)
DIM: Colour = (152, 163, 172)
BRIGHT: Colour = (233, 238, 241)
AMBER: Colour = (255, 190, 84)
EMBER: Colour = (38, 28, 12)
OUTLINE: Colour = (255, 255, 255)
STATUS: dict[Status, Colour] = {
    Status.VALID: (104, 196, 160),
    Status.LOW_CONFIDENCE: AMBER,
    Status.WITHHELD: (232, 112, 100),
}

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


def blank(height: int, width: int) -> Pil.Image:
    """An empty picture."""
    return Pil.new("RGB", (width, height), GROUND)


def text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    said: str,
    *,
    size: int,
    colour: Colour = DIM,
    anchor: str = "ls",
    width: int | None = None,
    rim: int = 0,
) -> None:
    """Words at a point of their base line (x, y), cut with an ellipsis where wider than `width`.

    A dark `rim` of so many pixels keeps them readable on a white film.
    """
    font = _font(size)
    while width is not None and font.getlength(said) > width and len(said) > 1:
        said = said.removesuffix("...")[:-1].rstrip() + "..."
        if said == "...":
            break
    draw.text(at, said, fill=colour, font=font, anchor=anchor, stroke_width=rim, stroke_fill=GROUND)


def title(draw: ImageDraw.ImageDraw, said: str, left: int, base: int) -> None:
    """A panel's heading."""
    text(draw, (left, base), said, size=30, colour=BRIGHT)


def frame(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """A hair line around a box, outside it."""
    draw.rectangle(
        (box.left - 1, box.top - 1, box.left + box.width, box.top + box.height), outline=LINE
    )


def label(draw: ImageDraw.ImageDraw, said: str, x: float, y: float, size: tuple[int, int]) -> None:
    """A region's number with a dark rim, kept inside a picture of `size` (width, height)."""
    font = _font(32)
    x = min(max(x, 4.0), size[0] - font.getlength(said) - 6)
    y = min(max(y, 36.0), size[1] - 6.0)
    draw.text((x, y), said, fill=BRIGHT, font=font, anchor="ls", stroke_width=3, stroke_fill=GROUND)


def tick(draw: ImageDraw.ImageDraw, left: float, y: float, said: str) -> None:
    """A tick of a scale with its number."""
    draw.line((left, y, left + 7, y), fill=DIM)
    text(draw, (left + 13, y), said, size=25, anchor="lm")


def upward(image: Pil.Image, said: str, left: int, middle: int) -> None:
    """Words that read upwards, centred at `middle`."""
    font = _font(25)
    strip = Pil.new("RGB", (int(font.getlength(said)) + 4, 36), GROUND)
    text(ImageDraw.Draw(strip), (2, 26), said, size=25)
    turned = strip.transpose(Pil.Transpose.ROTATE_90)
    image.paste(turned, (left, middle - turned.height // 2))


def pill(draw: ImageDraw.ImageDraw, said: str, right: int, middle: int, colour: Colour) -> int:
    """A word in a coloured rounded frame that ends at `right`; its left edge."""
    said = said.replace("_", " ")
    left = right - int(_font(26).getlength(said)) - 44
    draw.rounded_rectangle((left, middle - 25, right, middle + 25), 25, outline=colour, width=2)
    text(draw, ((left + right) / 2, middle), said, size=26, colour=colour, anchor="mm")
    return left


def notice(draw: ImageDraw.ImageDraw, box: Box, heading: str, said: str) -> None:
    """A panel without a picture, and why."""
    x, y = box.left + box.width / 2, box.top + box.height / 2
    text(draw, (x, y - 30), heading, size=38, colour=STATUS[Status.WITHHELD], anchor="mm")
    for step, line in enumerate(lines(said, size=27, width=box.width - 40)[:8]):
        text(draw, (x, y + 24 + 40 * step), line, size=27, anchor="mm", width=box.width)


def lines(said: str, *, size: int, width: int) -> list[str]:
    """Words in lines of about `width` pixels; one word alone may be wider."""
    return wording.wrapped(said, int(width / _font(size).getlength("n")))


def banner(draw: ImageDraw.ImageDraw, box: Box, said: str) -> None:
    """A bar across the picture with words that must be seen."""
    draw.rectangle((box.left, box.top, box.left + box.width, box.top + box.height), fill=EMBER)
    draw.rectangle((box.left, box.top, box.left + box.width, box.top + 2), fill=AMBER)
    at = (box.left + box.width / 2, box.top + box.height / 2)
    # On a narrow film the same words are larger in lines of their own.
    shown = max(said.replace(" - ", "\n"), said, key=lambda words: _fitting(words, box))
    text(draw, at, shown, size=_fitting(shown, box), colour=AMBER, anchor="mm")


def _fitting(said: str, box: Box) -> int:
    """The letter size, at most 42, at which the words fit into the box."""
    rows = said.split("\n")
    longest = max(_font(42).getlength(row) for row in rows)
    high = int((box.height - 8) / (1.25 * len(rows)))
    return max(8, min(42, high, int(42 * (box.width - 8) / longest)))


@cache
def _font(size: int) -> _Font:
    """Aileron, which Pillow carries where it was built with FreeType, as its wheels are."""
    return ImageFont.load_default(size=size)
