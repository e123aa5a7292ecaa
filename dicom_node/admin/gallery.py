"""`vald-node gallery`: what the model makes of films of no patient, none left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pil
from PIL import ImageDraw
from rich.progress import track

from dicom_node.results import canvas, picture, wording
from dicom_node.results.canvas import Box
from dicom_node.results.colour import Pixels
from pipeline import digest, prompts, sampling, weights
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.types import Attribution, Image, Mode, Radiograph, Unlike

_FINDINGS = ("consolidation", "opacity")
_TITLES = ("Drawn by the model", "A finding induced", "Normal counterpart", "Attribution")
_SIDE, _GAP, _MARGIN = 256, 12, 24  # pixels, as all measures of the picture
_HEADER, _CAPTION, _FOOTER = 52, 40, 84


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One synthetic film: what was asked for, before and after, and what was made of it.

    `normal` is [side, side] float32, 0 black .. 1 white; `film` is it with the finding, if any.
    """

    prompt: str
    normal: Image
    film: Radiograph
    made: Attribution

    def pictures(self) -> tuple[Pixels, ...]:
        """One for each title."""
        drawn = picture.film(Radiograph(pixels=self.normal))
        shown = (picture.film(self.film), picture.counterpart(self.film, self.made))
        return (drawn, *shown, picture.overlay(self.film, self.made))

    def caption(self) -> str:
        """What was asked for, and what the result says."""
        regions = f"{len(self.made.regions)} region(s)"
        return f"{self.prompt or 'No finding'}: {self.made.status}, {regions}"


def write(out: Path, model: str, first_seed: int) -> None:
    """`out` is a PNG of one film without a finding, and one with a finding in each zone.

    The seeds follow each other: nothing is chosen.

    Args:
        out: where to.
        model: "embedded" or a folder.
        first_seed: of the first film; the others have the next ones.

    Raises:
        ModelError: the model cannot draw films, or cannot be loaded.
    """
    asked = ["", *(f"{z} {_FINDINGS[i % 2]}" for i, z in enumerate(prompts.ZONES))]
    folder = digest.folder_of(model)
    loaded = weights.load(folder, weights.choose_device("auto"))
    samples = [sampling.sample(loaded, first_seed + n, text) for n, text in enumerate(asked)]
    engine = LocalEngine(folder, "auto")
    rows = []
    for prompt, sample in track(list(zip(asked, samples, strict=True)), "explaining"):
        film = Radiograph(pixels=sample.film if prompt else sample.normal)
        request = Request(film=film, mode=Mode.CALIBRATED, seed=0, unlike=Unlike.WITHHOLD)
        (made,) = engine.explain([request])
        rows.append(Row(prompt=prompt, normal=sample.normal, film=film, made=made))
    engine.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn(rows).save(out, format="PNG", optimize=True)


def drawn(rows: Sequence[Row]) -> Pil.Image:
    """All rows in one picture, with the words that must be seen below them."""
    width = 2 * _MARGIN + len(_TITLES) * (_SIDE + _GAP) - _GAP
    height = _HEADER + len(rows) * (_SIDE + _CAPTION) + _FOOTER
    image = canvas.blank(height, width)
    draw = ImageDraw.Draw(image)
    for column, title in enumerate(_TITLES):
        canvas.text(draw, (_left(column), _HEADER - 16), title, size=22, colour=canvas.BRIGHT)
    for number, row in enumerate(rows):
        top = _HEADER + number * (_SIDE + _CAPTION)
        for column, pixels in enumerate(row.pictures()):
            small = Pil.fromarray(pixels).resize((_SIDE, _SIDE), Pil.Resampling.LANCZOS)
            image.paste(small, (_left(column), top))
        said = canvas.STATUS[row.made.status]
        canvas.text(draw, (_MARGIN, top + _SIDE + 26), row.caption(), size=20, colour=said)
    words = f"Synthetic films of no patient. {wording.RESEARCH_WORDS}"
    canvas.banner(draw, Box(top=height - _FOOTER, left=0, height=_FOOTER, width=width), words)
    return image


def _left(column: int) -> int:
    return _MARGIN + column * (_SIDE + _GAP)
