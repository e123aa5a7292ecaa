"""The training commands: a progress bar around the workshop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from pipeline import weights
from pipeline.training.pairs import Counts
from pipeline.training.workshop import Workshop

_POOL_PER_MINUTE = 300  # so many pairs for each minute of training, within the bounds below
_SMALLEST_POOL, _LARGEST_POOL = 64, 30_000


def segmenter(data: Path, work: Path, minutes: float, device: str, seed: int) -> None:
    """The lung segmenter is trained."""
    with _workshop(data, work, device, seed, "lung segmenter") as workshop:
        workshop.train_segmenter(minutes)


def autoencoder(data: Path, work: Path, minutes: float, device: str, seed: int) -> None:
    """The autoencoder is trained, and its PSNR on the films of val is printed."""
    with _workshop(data, work, device, seed, "autoencoder") as workshop:
        psnr = workshop.train_autoencoder(minutes)
    typer.echo(f"PSNR of {len(psnr)} films of val: mean {sum(psnr) / len(psnr):.1f} dB")


def language_model(data: Path, work: Path, minutes: float, device: str, seed: int) -> None:
    """The text encoder is trained."""
    with _workshop(data, work, device, seed, "language model") as workshop:
        workshop.train_language_model(minutes)


def view(data: Path, work: Path, minutes: float, device: str, seed: int) -> None:
    """The image gate's classifier is trained."""
    with _workshop(data, work, device, seed, "image gate") as workshop:
        workshop.train_view(minutes)


def diffusion(data: Path, work: Path, minutes: float, device: str, seed: int) -> None:
    """The U-Net is trained on as many pairs as the time allows to learn from."""
    pairs = min(_LARGEST_POOL, max(_SMALLEST_POOL, int(minutes * _POOL_PER_MINUTE)))
    with _workshop(data, work, device, seed, "diffusion") as workshop:
        workshop.train_diffusion(minutes, shares(pairs))


def assemble(data: Path, work: Path, version: str) -> None:
    """WORK/model is a model folder; its digest is printed."""
    with _workshop(data, work, "cpu", 0, "assemble") as workshop:
        digest = workshop.assemble(version)
    typer.echo(f"{work / 'model'} is model {digest[:12]}")


def calibrate(data: Path, work: Path, films: int, device: str) -> None:
    """WORK/model has its thresholds, which are printed."""
    with _workshop(data, work, device, 0, "calibrate") as workshop:
        said = workshop.calibrate(films)
    for mode, reading in (("calibrated", said.calibrated), ("paper", said.paper)):
        typer.echo(
            f"{mode}: threshold {reading.threshold:.4f}, scale up to {reading.scale_max:.4f}"
        )


def shares(pairs: int) -> Counts:
    """A pool of so many, in the shares that the embedded model was trained with."""
    return Counts(
        pasted=round(pairs * 0.66),
        boxed=round(pairs * 0.13),
        healthy=round(pairs * 0.11),
        abnormal=round(pairs * 0.10),
    )


@contextmanager
def _workshop(data: Path, work: Path, device: str, seed: int, what: str) -> Iterator[Workshop]:
    with _bar(what) as tell:
        chosen = str(weights.choose_device(device))
        yield Workshop(data=data, work=work, device=chosen, seed=seed, progress=tell)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float, str], None]]:
    columns = (
        *Progress.get_default_columns()[:3],
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(what, total=1.0, note="")
        yield lambda fraction, note: progress.update(task, completed=fraction, note=note)
