"""`vald-node induce`: a film with a finding that it does not have, marked as made by a model."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import typer
from PIL import Image as Pillow
from PIL import ImageDraw

from dicom_node.admin import marked
from dicom_node.admin.films import (
    WHITE_OF_16_BITS,
    FilmFile,
    FilmReader,
    demand_opaque,
    made_folder,
)
from dicom_node.errors import InputError
from dicom_node.results import canvas, colour, picture, wording
from dicom_node.results.canvas import Box
from pipeline import digest, induction, preprocess, prompts, weights
from pipeline.preprocess import Letterbox
from pipeline.training import files
from pipeline.types import Image, Radiograph

_LEAST, _TOP = 0.03, 0.4  # of the film's range: where colour begins and ends
_LEAST_WHITE = 0.5  # of a mask's brightest pixel
_MARGIN, _TITLE, _BANNER = 40, 64, 84
_TITLES = ("Original film", "Finding induced (synthetic)", "Change")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be induced, where, by which model."""

    prompt: str
    mask: Path | None
    region: str | None
    model: str
    seed: int


def induce(image: Path, out: Path, wanted: Wanted, *, as_json: bool) -> None:
    """OUT gets induced.png and change.npy in the file's rows and columns, and comparison.png.

    Raises:
        InputError: the film, the mask, the region, the prompt or `out` cannot be used, or the
            prompt names two findings or two zones.
        FilmError: the film looks like no frontal chest radiograph.
        ModelError: the model was not trained in pairs.
    """
    if wanted.mask is not None and wanted.region is not None:
        raise InputError("give --mask or --region, not both")
    _demand_one_of_each(wanted.prompt)
    _warn_of_what_is_left_out(wanted.prompt)
    file = _read(image)
    film = file.radiograph
    loaded = weights.load(digest.folder_of(wanted.model), weights.choose_device("auto"))
    box = preprocess.letterbox(film, loaded.settings.grid)
    where = _where(wanted, film, box)
    made = induction.induce(
        loaded, preprocess.to_grid(film, box), wanted.prompt, wanted.seed, where
    )
    made_folder(out)
    change = box.to_film(made.change)
    if where is not None:
        _warn_of_nothing(change)
    induced = replace(film, pixels=(film.pixels + change).clip(0, 1))
    said = {
        "file": str(image),
        "prompt": made.prompt,
        "mean_change": float(np.abs(change).mean()),
        "model_digest": loaded.digest,
        "seed": wanted.seed,
        "paths": {
            name: str(out / name) for name in ("induced.png", "change.npy", "comparison.png")
        },
    }
    grey = (induced.pixels * 255).round().astype(np.uint8)
    what = f"Synthetic: a finding was induced by a model. Prompt: {made.prompt}"
    marked.save(file.as_stored(grey), out / "induced.png", what)
    added = (induced.pixels - film.pixels).astype(np.float32)
    files.save_array(out / "change.npy", file.as_stored(added))
    marked.save(_comparison(film, induced), out / "comparison.png", what)
    typer.echo(json.dumps(said) if as_json else f"{image}: induced {made.prompt!r} in {out}")


def _warn_of_nothing(change: Image) -> None:
    most = float(np.abs(change).max())
    if most < _LEAST:
        typer.echo(
            f"warning: next to nothing changed: at most {most:.2%} of the film's range; give a "
            "larger place, one where the film may show the finding, or another --seed",
            err=True,
        )


def _demand_one_of_each(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError as fault:  # bytes that the shell handed on as they were
        raise InputError("--prompt is no UTF-8: type it anew") from fault
    if not prompt.strip():
        raise InputError("--prompt is empty: say a finding, such as right lower lobe opacity")
    heard = prompts.load().heard(prompt)
    for what, names in (("findings", heard.findings), ("zones", heard.zones)):
        if len(names) > 1:
            raise InputError(
                f"--prompt names {len(names)} {what}: {', '.join(names)}; ask for one at a time: "
                "the next can be induced in the induced.png of the one before"
            )


def _warn_of_what_is_left_out(prompt: str) -> None:
    words = prompts.load()
    asked, left_over = words.understood(prompt), words.heard(prompt).left_over
    if not words.heard(prompt).findings:
        typer.echo(
            f"warning: --prompt asks for no finding of prompts.yaml ({', '.join(words.findings)}); "
            "the model is asked it as it stands, and may not know it",
            err=True,
        )
    elif left_over and prompt.strip() != asked:
        typer.echo(
            f"warning: the model is asked {asked!r}: of --prompt it does not know, and is not "
            f"told, {', '.join(left_over)}",
            err=True,
        )


def _read(image: Path) -> FilmFile:
    try:
        with FilmReader() as reader:
            return reader.read(image)
    except InputError as fault:
        raise InputError(f"{image}: {fault}") from fault
    except OSError as fault:
        raise InputError(f"{image}: cannot be read: {fault.strerror}") from fault


def _where(wanted: Wanted, film: Radiograph, box: Letterbox) -> Image | None:
    """The mask or region on the model grid, 0 .. 1; None where neither was given."""
    if wanted.mask is not None:
        plane = _read_mask(wanted.mask, film.pixels.shape)
    elif wanted.region is not None:
        plane = _rectangle(wanted.region, film.pixels.shape)
    else:
        return None
    return preprocess.to_grid(replace(film, pixels=plane), box)


def _read_mask(path: Path, shape: tuple[int, ...]) -> Image:
    try:
        with Pillow.open(path) as file:
            plane = _mask_plane(file)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from fault
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as fault:
        raise InputError(f"{path}: not a readable mask: {fault}") from fault
    if plane.shape != shape:
        raise InputError(
            f"{path}: the mask has {plane.shape[0]} x {plane.shape[1]} pixels, the upright film "
            f"{shape[0]} x {shape[1]}"
        )
    if not plane.any():
        raise InputError(f"{path}: the mask is black: nothing may change")
    if plane.max() < _LEAST_WHITE:
        raise InputError(
            f"{path}: the mask's brightest pixel is {plane.max():.1%} of white: white is where the "
            "film may change; multiply a mask of 0 and 1 by 255"
        )
    return plane


def _mask_plane(image: Pillow.Image) -> Image:
    """0 black .. 1 white, by the bits that the file has."""
    demand_opaque(image)
    if image.mode.startswith("I"):
        return (np.asarray(image, np.float32) / np.float32(WHITE_OF_16_BITS)).clip(0, 1)
    return np.asarray(image.convert("L"), np.float32) / np.float32(255)


def _rectangle(region: str, shape: tuple[int, ...]) -> Image:
    rows, cols = shape
    try:
        x0, y0, x1, y1 = (int(part) for part in region.split(","))
    except ValueError:
        raise InputError(f"--region {region!r}: four whole numbers x0,y0,x1,y1") from None
    if not (0 <= x0 < x1 <= cols and 0 <= y0 < y1 <= rows):
        raise InputError(
            f"--region {region!r}: x0 < x1 <= {cols} and y0 < y1 <= {rows} were expected"
        )
    plane = np.zeros(shape, np.float32)
    plane[y0:y1, x0:x1] = 1
    return plane


def _comparison(film: Radiograph, induced: Radiograph) -> np.ndarray:
    """Film, induced film and change side by side over the research banner."""
    first, second = picture.film(film), picture.film(induced)
    change = np.abs(second[..., 0].astype(np.float32) - first[..., 0]) / 255
    panels = (first, second, colour.over(first, change, _LEAST, _TOP))
    height, width = first.shape[:2]
    image = canvas.blank(height + _TITLE + _BANNER, 3 * width + 4 * _MARGIN)
    draw = ImageDraw.Draw(image)
    for place, (panel, title) in enumerate(zip(panels, _TITLES, strict=True)):
        left = _MARGIN + place * (width + _MARGIN)
        image.paste(Pillow.fromarray(panel), (left, _TITLE))
        canvas.title(draw, title, left, _TITLE - 16)
    banner = Box(top=height + _TITLE, left=0, height=_BANNER, width=image.width)
    canvas.banner(draw, banner, wording.RESEARCH_WORDS)
    return np.asarray(image, np.uint8)
