"""Pictures of a training run: its losses, and samples of what it makes by now."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Pillow

from pipeline.training import files
from pipeline.types import Image

mpl.use("Agg")

_BINS = 40
_NEITHER = {"step", "spent_s"}


def losses(metrics: Path, picture: Path) -> None:
    """`picture` shows every metric of a metrics.jsonl over the steps; nothing without one."""
    if not metrics.is_file():
        return
    lines = list(_read(metrics))
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in sorted({name for line in lines for name in line} - _NEITHER):
        known = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*known, strict=True), label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.legend()
    with files.whole(picture) as scratch:
        figure.savefig(scratch, dpi=100, format="png")


def peaks(healthy: Sequence[float], sick: Sequence[float], threshold: float, picture: Path) -> None:
    """`picture` shows how high the maps of films reach, and where the threshold lies."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(*healthy, *sick, threshold), _BINS + 1).tolist()
    for name, films in (("healthy", healthy), ("sick", sick)):
        if films:
            # Bars of one area a kind, since there are not as many films of each.
            axes.hist(films, bins, density=True, alpha=0.6, label=f"{name}: {len(films)} films")
    axes.axvline(threshold, color="black", label=f"threshold {threshold:.3f}")
    axes.set_xlabel("maximum of a film's map")
    axes.set_ylabel("density of films")
    axes.legend()
    with files.whole(picture) as scratch:
        figure.savefig(scratch, dpi=100, format="png")


def _read(metrics: Path) -> Iterator[dict[str, float]]:
    """Every line that is one: a kill may have cut the last that a run wrote."""
    for text in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            yield line


def samples(rows: Sequence[Sequence[Image]], picture: Path) -> None:
    """`picture` is a table of films, each 0 black .. 1 white and of one size."""
    strips = [np.concatenate([plane.clip(0, 1) for plane in row], axis=1) for row in rows]
    table = (np.concatenate(strips) * 255).round().astype(np.uint8)
    with files.whole(picture) as scratch:
        Pillow.fromarray(table).save(scratch, format="png")
