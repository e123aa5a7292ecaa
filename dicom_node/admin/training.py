"""The training commands: a progress bar around the workshop."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn, TimeRemainingColumn

from dicom_node.admin.films import FilmReader, made_folder
from dicom_node.errors import InputError
from pipeline import digest, preprocess, weights
from pipeline.settings import Settings
from pipeline.training import calibrate as calibration
from pipeline.training import locks, ranks, whole_lung
from pipeline.training.autoencoder import LATENT_CHANNELS, MOST_LATENT_CHANNELS
from pipeline.training.budget import Budget, OutOfTimeError
from pipeline.training.diffusion import Form
from pipeline.training.fidelity import Fidelity
from pipeline.training.finetune import Plan
from pipeline.training.pairs import Counts
from pipeline.training.workshop import Workshop
from pipeline.types import Image, Radiograph

# Pairs for each minute, within the bounds below. One CPU core takes three eighths of the minute to
# make them; so there are 200 of them for each minute of learning.
_POOL_PER_MINUTE = 125
_SMALLEST_POOL, _LARGEST_POOL = 64, 30_000
_LARGEST_SEED = 2**32 - 1
_LINE_EVERY_S = 15.0

Tell = Callable[[float, str], None]
"""Told the fraction that is done and one line of text."""

MINUTES = {
    "segmenter": 4.0,
    "autoencoder": 32.0,
    "language-model": 17.0,
    "view": 2.0,
    "diffusion": 91.0,
    "gate": 70.0,
    "whole-lung": 64.0,
    "classifier": 13.0,
    "rival": 13.0,
}
"""As long as the embedded model's parts and its judges learnt at first, on two CPU cores, and what
a core takes to make pairs, where a step learns from them.
"""
_FINE_TUNING_MINUTES = 96.0
_FOLDERS = {
    "gate": "lesion-gate",
    "fine-tune": "fine-tuning",
    "assemble": "model",
    "calibrate": "model",
}
"""Of a work folder, where a step's has not its name."""


def train(
    part: str,
    data: Path,
    work: Path,
    minutes: float | None,
    device: str,
    seed: int,
    base: Path | None = None,
    channels: int | None = None,
    form: str = Form.PAIRED,
) -> None:
    """One part is trained for so many minutes; what an autoencoder keeps of films is printed, and
    where they were spent before it could learn, how far it came.

    A whole-lung adapter begins with that of the model folder `base`, where one is given. `channels`
    are those of an autoencoder's latents, by default the embedded model's; what is trained after it
    has as many. `form` is diffusion's: `plain` is the paper's, which sees no source.

    Raises:
        ModelError: `base` has no adapter that fits.
        InputError: minutes, seed, channels or work folder are none.
        DatasetError: the data cannot be used, or a part that comes before has not been trained.
    """
    latents = _channels(channels)
    given = MINUTES[part] if minutes is None else minutes
    start = None if base is None else digest.folder_of(str(base))
    with _workshop(data, work, device, seed, part, given) as workshop:
        counts = shares(pairs(given))
        if part == "diffusion":
            _warn(workshop.fidelity)
            workshop.train_diffusion(counts, Form(form))
        elif part == "autoencoder":
            _print_fidelity(workshop.train_autoencoder(latents))
        else:
            trainers: dict[str, Callable[[], None]] = {
                "segmenter": workshop.train_segmenter,
                "language-model": workshop.train_language_model,
                "view": workshop.train_view,
                "gate": lambda: workshop.train_gate(counts),
                "whole-lung": lambda: workshop.train_whole_lung(
                    whole_lung.counts(pairs(given)), start
                ),
                "classifier": workshop.train_classifier,
                "rival": lambda: workshop.train_rival(counts),
            }
            trainers[part]()


def _channels(asked: int | None) -> int:
    channels = LATENT_CHANNELS if asked is None else asked
    if channels < 1 or MOST_LATENT_CHANNELS % channels:
        raise InputError(
            f"--channels {channels}: give 1, 2, 4, 8, 16 or another divisor of "
            f"{MOST_LATENT_CHANNELS}"
        )
    return channels


def _print_fidelity(found: Fidelity) -> None:
    if not ranks.is_first():
        return
    typer.echo(f"PSNR of {found.films} films of val: mean {found.psnr_db:.1f} dB")
    if found.contrast is None:
        typer.echo(
            "contrast of pasted lesions: not measured, since no lungs are seen on normal films"
        )
    else:
        typer.echo(
            f"contrast of {found.lesions} pasted lesions: {found.contrast:.0%} is kept"
            + ("" if found.detail is None else f", of what is fine of it {found.detail:.0%}")
        )
    _warn(found)


def _warn(found: Fidelity | None) -> None:
    """Of an autoencoder that keeps too little; a trial may go on with it all the same."""
    if found and found.shortfalls and ranks.is_first():
        said = " and ".join(found.shortfalls)
        typer.echo(
            f"warning: of the autoencoder {said}: train the autoencoder for longer, then the rest",
            err=True,
        )


def plan(form: str, *, train_text: bool, lora_rank: int) -> Plan:
    """What the command line says of a fine-tuning."""
    return Plan(form=Form(form), train_text=train_text, lora_rank=lora_rank)


def fine_tune(
    base: Path, data: Path, work: Path, minutes: float | None, device: str, seed: int, plan: Plan
) -> None:
    """WORK/fine-tuned is a model folder made of `base`; calibrate it before use.

    Raises:
        InputError: minutes, seed or work folder are none.
        DatasetError: the data cannot be used, or the segmenter has not been trained.
        ModelError: `base` cannot be used.
    """
    given = _FINE_TUNING_MINUTES if minutes is None else minutes
    with _workshop(data, work, device, seed, "fine-tune", given) as workshop:
        made = workshop.fine_tune(base, plan, shares(pairs(given)))
        typer.echo(f"{made}: calibrate it before use (vald-node calibrate --healthy)")


def _budget(minutes: float | None) -> Budget:
    if minutes is None:
        return Budget()
    if not 0 < minutes < math.inf:
        raise InputError(f"--minutes {minutes:g}: give a time above 0")
    return Budget(minutes)


def pairs(minutes: float) -> int:
    """As many as the time allows to make and to learn from.

    Whole hundreds, of which shares are whole numbers: so those of a pool's parts are the same
    however many parts there are.
    """
    wanted = int(minutes * _POOL_PER_MINUTE)
    return min(_LARGEST_POOL, max(_SMALLEST_POOL, wanted // 100 * 100))


def assemble(data: Path, work: Path, version: str) -> None:
    """WORK/model is a model folder; its digest is printed."""
    with _workshop(data, work, "cpu", 0, "assemble") as workshop:
        digest = workshop.assemble(version)
    typer.echo(f"{work / 'model'} is model {digest[:12]}")


def calibrate(data: Path, work: Path, films: int, device: str, minutes: float | None) -> None:
    """WORK/model has its thresholds, which are printed; or how far it came in so many minutes is.

    Raises:
        InputError: minutes or folders are none.
    """
    with _workshop(data, work, device, 0, "calibrate", minutes) as workshop:
        _print_readings(workshop.calibrate(films))


def calibrate_site(
    healthy: Path, model: str, out: Path, device: str, minutes: float | None
) -> None:
    """`out` is the model with thresholds and reference from a site's own films without a finding;
    or how far it came in so many minutes is printed, and there is no `out` yet.

    Raises:
        InputError: `out` is there already, minutes are none, or a film cannot be read.
        DatasetError: there are too few films, or no threshold can be set by them.
        InUseError: another process makes `out`.
    """
    budget = _budget(minutes)
    if out.exists():
        raise InputError(f"{out} is there already; give a folder that is not")
    films = _films_in(healthy)
    calibration.demand_enough(len(films))
    source = digest.folder_of(model)
    loaded = weights.load(source, weights.choose_device(device))
    planes = {
        name: preprocess.to_grid(film, preprocess.letterbox(film, loaded.settings.grid))
        for name, film in films.items()
    }
    _leave_copies_out(planes)
    notes = out.with_name(f"{out.name}.calibration")
    places = calibration.Places(model=source, out=out, notes=notes)
    made_folder(out.parent)
    with locks.held(out), _until_time_is_out(), _bar("calibrate") as tell:
        said = calibration.calibrate(
            places, loaded, [*planes.values()], [], tell, budget, [*planes]
        )
        _print_readings(said)
        typer.echo(f"{out}: set model.path to it; {len(planes)} films without a finding")


def _leave_copies_out(planes: dict[str, Image]) -> None:
    """A film that is there twice counts once, and is named."""
    names = list(planes)
    twice = calibration.copies([*planes.values()])
    for n in twice:
        del planes[names[n]]
    if twice:
        said = calibration.in_short([f"{names[n]} ({names[other]})" for n, other in twice.items()])
        typer.echo(
            f"{len(twice)} of {len(names)} files hold a film that another holds too, and are left "
            f"out: {said}",
            err=True,
        )


def _films_in(folder: Path) -> dict[str, Radiograph]:
    """Every picture and DICOM film of a folder by its name, in the order of these."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    with FilmReader() as reader:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return {path.name: _film_in(path, reader) for path in files}


def _film_in(path: Path, reader: FilmReader) -> Radiograph:
    try:
        return reader.read(path).radiograph
    except InputError as fault:
        raise InputError(f"{path}: {fault} Take it out of the folder, or mend it.") from fault


def _print_readings(said: Settings) -> None:
    for mode, reading in (("calibrated", said.calibrated), ("paper", said.paper)):
        typer.echo(
            f"{mode}: threshold {reading.threshold:.4f}, scale up to {reading.scale_max:.4f}"
        )


def shares(pairs: int) -> Counts:
    """A pool of so many, in the shares that the embedded model was trained with."""
    return Counts(
        pasted=round(pairs * 0.53),
        boxed=round(pairs * 0.10),
        healthy=round(pairs * 0.12),
        abnormal=round(pairs * 0.07),
        labelled=round(pairs * 0.18),
    )


@contextmanager
def _until_time_is_out() -> Iterator[None]:
    """Where the minutes end what is done within, it is said how far that came: no fault."""
    try:
        yield
    except OutOfTimeError as end:
        if ranks.is_first():
            typer.echo(str(end))


@contextmanager
def _workshop(
    data: Path, work: Path, device: str, seed: int, what: str, minutes: float | None = None
) -> Iterator[Workshop]:
    """A workshop for one step, at which nobody else is in this work folder.

    Raises:
        InputError: minutes, seed or folders are none.
        InUseError: another process is at the same step in this work folder.
    """
    budget = _budget(minutes)
    _demand_folders(data, work)
    if not 0 <= seed <= _LARGEST_SEED:
        raise InputError(f"--seed {seed}: give one from 0 to {_LARGEST_SEED}")
    with _until_time_is_out(), _bar(what) as tell:
        chosen = str(weights.choose_device(device))
        workshop = Workshop(
            data=data, work=work, device=chosen, seed=seed, progress=tell, budget=budget
        )
        with locks.held(work / _FOLDERS.get(what, what)):
            yield workshop


def _demand_folders(data: Path, work: Path) -> None:
    """There is a data folder, and a work folder that may be written to."""
    if not data.is_dir():
        raise InputError(f"--data {data}: no such folder")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"--work {work}: no folder can be made there: {fault.strerror}") from fault
    if not os.access(work, os.W_OK | os.X_OK):
        raise InputError(f"--work {work}: may not be written to")


@contextmanager
def _bar(what: str) -> Iterator[Tell]:
    """Tells how far `what` is: a bar on a terminal, lines in a file or a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(what, write=lambda line: typer.echo(line, err=True), clock=time.monotonic)
        return
    columns = (
        *Progress.get_default_columns()[:3],
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=1.0, note="")
        yield _Bar(progress, task)


class _Bar:
    """A bar that begins anew where another thing is made."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._fraction = progress, task, 0.0

    def __call__(self, fraction: float, note: str) -> None:
        if fraction < self._fraction:
            self._progress.reset(self._task)
        self._fraction = fraction
        self._progress.update(self._task, completed=fraction, note=note)


class Lines:
    """Progress as plain lines, so few that the log of a run of hours can be read."""

    def __init__(
        self, what: str, *, write: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._what, self._write, self._clock = what, write, clock
        self._began_s = clock()
        self._begin: float | None = None
        self._fraction = 0.0
        self._told_s = -math.inf

    def __call__(self, fraction: float, note: str) -> None:
        """Write the line, unless another was written a moment ago; the last one always."""
        now_s = self._clock()
        if fraction < self._fraction:  # another thing is made: its pace is its own
            self._began_s, self._begin = now_s, fraction
        if self._begin is None:
            self._begin = fraction
        self._fraction = fraction
        if fraction < 1 and now_s - self._told_s < _LINE_EVERY_S:
            return
        self._told_s = now_s
        left = self._left(fraction, now_s - self._began_s)
        self._write(f"{self._what}: {fraction:.0%}, {note}{left}")

    def _left(self, fraction: float, spent_s: float) -> str:
        """By the pace of this run: a resumed one begins with what was done before."""
        done = fraction - (self._begin or 0.0)
        if done <= 0 or fraction >= 1:
            return ""
        return f", {timedelta(seconds=round(spent_s / done * (1 - fraction)))} left"
