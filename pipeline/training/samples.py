"""samples.png of each step: what it makes by now, beside what is so."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline import guidance, weights
from pipeline.explainer import Explainer
from pipeline.segmenter import Segmenter
from pipeline.settings import Settings
from pipeline.training import autoencoder, lesion_gate, plots, rival, segmenter
from pipeline.training.bench import Bench
from pipeline.training.lesion_gate import Taught
from pipeline.training.pictures import Films
from pipeline.training.pools import Pool
from pipeline.types import Image, Mode

SHOWN = 6
_TUNED = 3  # a foreign network may be large, and an edit takes dozens of looks
_FILE = "samples.png"


def masks(model: Segmenter, seen: Films, truth: Films, folder: Path) -> None:
    """Films with outlines, the lungs that are found in each, and the outlines."""
    rows = [films[:SHOWN] for films in (seen, segmenter.lungs(model, seen[:SHOWN]), truth)]
    pictures = [[np.float32(1 / 255) * plane for plane in planes] for planes in rows]
    plots.samples(pictures, folder / _FILE)


def round_trips(bench: Bench, films: Films, folder: Path) -> None:
    """Films from all over a set, each above its reconstruction."""
    some = films[:: max(1, len(films) // SHOWN)][:SHOWN]
    back = bench.decoded(bench.encode(autoencoder.to_signed(some)))
    plots.samples([[film.astype(np.float32) / 255 for film in some], back], folder / _FILE)


def gates(model: Segmenter, taught: Sequence[Taught], folder: Path) -> None:
    """Films in their lungs' frame, what the gate says of each, and what is so."""
    pasted = next(lesson for lesson in taught if lesson.kind == "pasted")
    films, truth = pasted.film[:SHOWN], pasted.lesion[:SHOWN]
    rows = (films / 255, lesion_gate.told(model, films), truth / 255)
    plots.samples([list(planes.numpy()) for planes in rows], folder / _FILE)


def marks(model: Segmenter, taught: rival.Lessons, device: str, folder: Path) -> None:
    """Films with pastes, what the rival says of each, and what is so."""
    films, truth = (planes[:SHOWN] for planes in taught)
    with torch.no_grad():
        said = model(rival.signed(films).to(device)).sigmoid().cpu()
    plots.samples(
        [list(planes[:, 0].numpy()) for planes in (films / 255, said, truth / 255)], folder / _FILE
    )


@torch.no_grad()
def edits(
    bench: Bench, model: torch.nn.Module, pool: Pool, kind: str, seed: int, folder: Path
) -> None:
    """Films of a kind, edited in one step, and as they truly were."""
    source, aim, normal = _of(pool, kind, SHOWN)
    out = bench.answers(model, source, normal, seed)
    # At t = T alpha is 0 and sigma 1: the velocity is minus the clean latent.
    edited = source + out[:, -1:].sigmoid() * (-out[:, : source.shape[1]] - source)
    plots.samples([bench.decoded(z) for z in (source, edited, aim)], folder / _FILE)


def paper_edits(bench: Bench, model: torch.nn.Module, pool: Pool, seed: int, folder: Path) -> None:
    """Films with a paste, their counterparts by `paper` mode's img2img, and as they truly were."""
    source, aim, normal = _of(pool, "pasted", SHOWN)
    said, generator = Settings(), torch.Generator().manual_seed(seed)
    made = guidance.image_to_image(
        bench.denoiser(model),
        source.to(bench.device),
        bench.embeddings(normal).to(bench.device),
        bench.embeddings([""] * len(normal)).to(bench.device),
        torch.randn(source.shape, generator=generator).to(bench.device),
        strength=said.strength,
        guidance=said.guidance,
        steps=said.paper_steps,
    )
    plots.samples([bench.decoded(z) for z in (source, made, aim)], folder / _FILE)


def _of(pool: Pool, kind: str, most: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Sources, aims and "normal" sentences of the first pairs of a kind."""
    places = torch.from_numpy(pool.of(kind)[:most])
    normal = [pool.captions[int(i)] for i in pool.normal[places]]
    return pool.source[places].float(), pool.aim[places].float(), normal


@torch.no_grad()
def counterparts(made: Path, pool: Pool, device: str, seed: int, folder: Path) -> None:
    """Films with a paste, their counterparts by the model folder `made`, and as they truly were.

    Whole edits, as it will be asked: its noise has a schedule of its own, by which one step may
    show nothing, and its plain form knows no source.
    """
    model = weights.load(made, torch.device(device))
    source, aim, _ = _of(pool, "pasted", _TUNED)
    films, truth = (
        list(model.autoencoder.decode(z.to(model.device))[:, 0].cpu().numpy() / 2 + 0.5)
        for z in (source, aim)
    )
    explain = Explainer(model).evidence
    found = [explain(film.clip(0, 1), Mode.CALIBRATED, seed) for film in films]
    shown: list[Image] = [edit.plane - edit.changes.mean(0) for edit in found]
    plots.samples([films, shown, truth], folder / _FILE)
