"""Pictures of a training run: its losses, and samples of what it makes by now."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Pillow

from pipeline.types import Image

mpl.use("Agg")

_NEITHER = {"step", "spent_s"}


def losses(metrics: Path, picture: Path) -> None:
    """`picture` shows every metric of a metrics.jsonl over the steps; nothing without one."""
    if not metrics.is_file():
        return
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in sorted({name for line in lines for name in line} - _NEITHER):
        known = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*known, strict=True), label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.legend()
    figure.savefig(picture, dpi=100)


def samples(rows: Sequence[Sequence[Image]], picture: Path) -> None:
    """`picture` is a table of films, each 0 black .. 1 white and of one size."""
    strips = [np.concatenate([plane.clip(0, 1) for plane in row], axis=1) for row in rows]
    table = (np.concatenate(strips) * 255).round().astype(np.uint8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(table).save(picture)
