"""The command `vald-node`. Each command imports what it needs, so that the receiver starts lean."""

import json
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.errors import NodeError
from pipeline.errors import PipelineError
from pipeline.types import Mode
from storage.errors import StorageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Receives chest X-rays by DICOM and returns their visual attribution. For research, "
    "not for diagnosis.",
)

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration file.", envvar="VALD_CONFIG")
]
DEFAULT_CONFIG = Path("config.yaml")


class JobFilter(StrEnum):
    """States that `jobs --state` knows."""

    RECEIVED = "RECEIVED"
    RUNNING = "RUNNING"
    PRODUCED = "PRODUCED"
    DELIVERED = "DELIVERED"
    COMMITTED = "COMMITTED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"


def main() -> None:
    """Run the command; an error that has an owner ends in one line and exit status 1."""
    try:
        app()
    except (NodeError, PipelineError, StorageError) as fault:
        sys.stderr.write(f"vald-node: {fault}\n")
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vald-node {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """What every command shares."""


@app.command()
def serve(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Run the node until SIGTERM."""
    from dicom_node import node

    sys.exit(node.serve(config, os.environ))


@app.command()
def check(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Say whether configuration, model, storage and destinations can be used; touch nothing."""
    from dicom_node.admin import doctor

    sys.exit(0 if doctor.print_report(config, os.environ) else 1)


@app.command()
def jobs(
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    state: Annotated[JobFilter | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 100,
) -> None:
    """List received films with their jobs, where each stands and why."""
    from dicom_node.admin import listing

    rows = listing.films(config, os.environ, limit=limit, state=state)
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows], indent=1))
    else:
        listing.print_table(rows)


@app.command()
def retry(
    key: Annotated[str, typer.Argument(help="The job's key, or enough of its beginning.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Try a failed job, or the deliveries that were refused, again."""
    from dicom_node import node

    store = node.open_store(node.read_config(config, os.environ))
    job = store.retry(store.job(key).key, datetime.now(UTC))
    typer.echo(f"{job.key[:12]} is {job.state}")


@app.command()
def attribute(
    files: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG.")],
    out: Annotated[Path, typer.Option(help="Folder for DIR/STEM/…")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take the model from here.")
    ] = None,
    mode: Annotated[Mode | None, typer.Option(help="How to make the counterpart.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a file.")] = False,
) -> None:
    """Make the normal counterpart and the map of files; needs no PACS."""
    from dicom_node.admin import attribution

    settings = attribution.choose(config, os.environ, mode=mode, seed=seed)
    good = attribution.attribute(files, out, settings, as_json=as_json)
    sys.exit(0 if good else 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes.")] = Path(
        "demo-out"
    ),
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Send a synthetic film through a node and a small PACS on this machine; show what returns."""
    from dicom_node.admin import demonstration

    demonstration.run(out, config)


@app.command()
def render(
    objects: Annotated[list[Path], typer.Argument(help="Results as DICOM files.")],
    out: Annotated[Path, typer.Option(help="Folder for STEM.png, .txt or .html.")] = Path(),
    film: Annotated[
        Path | None, typer.Option(help="The film; maps and outlines are drawn over it.")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Reports as HTML, not text.")] = False,
) -> None:
    """Show any result: images, maps and outlines as PNG, reports as text or HTML."""
    from dicom_node.admin import rendering

    for written in rendering.render(objects, out, film, html=html):
        typer.echo(str(written))


@app.command()
def retract(
    model: Annotated[str, typer.Option(help="The model's digest, or enough of its beginning.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Tell every destination to hide the results of a recalled model (IHE IOCM)."""
    from dicom_node.admin import retraction

    done = retraction.retract(config, os.environ, model, datetime.now(UTC))
    typer.echo(f"{done.model_digest[:12]}: {done.results} results of {done.films} films rejected")


DataPath = Annotated[Path, typer.Option(help="Folder with cxr256/, localised/ and reports/.")]
WorkPath = Annotated[Path, typer.Option(help="Folder for checkpoints; a run goes on from there.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]


class Part(StrEnum):
    """What can be trained, in the order in which each needs those before it."""

    SEGMENTER = "segmenter"
    AUTOENCODER = "autoencoder"
    LANGUAGE_MODEL = "language-model"
    VIEW = "view"
    DIFFUSION = "diffusion"


@app.command()
def train(
    part: Annotated[Part, typer.Argument(help="What to train; see docs/training.md.")],
    data: DataPath,
    work: WorkPath,
    minutes: Annotated[
        float | None, typer.Option(help="Training time, over all resumed runs.")
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
) -> None:
    """Train a part of a model of your own."""
    from dicom_node.admin import training

    training.train(part.value, data, work, minutes, device, seed)


@app.command()
def assemble(
    data: DataPath,
    work: WorkPath,
    version: Annotated[str, typer.Option(help="The model's version.")],
) -> None:
    """Put the trained parts together as WORK/model, with digests; then calibrate."""
    from dicom_node.admin import training

    training.assemble(data, work, version)


@app.command()
def calibrate(
    data: DataPath,
    work: WorkPath,
    films: Annotated[int, typer.Option(help="Healthy films to use; 0 is all.")] = 120,
    device: Device = "auto",
) -> None:
    """Set the threshold of WORK/model on healthy films of the split calibration."""
    from dicom_node.admin import training

    training.calibrate(data, work, films, device)


@app.command()
def evaluate(
    data: DataPath,
    part: Annotated[str, typer.Option(help="dev to choose, test to report.")] = "dev",
    mode: Annotated[Mode, typer.Option(help="How the counterpart is made.")] = Mode.CALIBRATED,
    model: Annotated[str, typer.Option(help="A model folder, or embedded.")] = "embedded",
    limit: Annotated[int, typer.Option(help="Films a group at most; 0 is all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
) -> None:
    """Measure reconstruction, localisation and false alarms on films with boxes."""
    from dicom_node.admin import measuring

    measuring.evaluate(data, part, mode, model, limit, as_json=as_json)
