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
    key: Annotated[str, typer.Argument(help="The job's key, or enough of its beginning.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    failed: Annotated[
        bool, typer.Option("--failed", help="All that has FAILED, with or without a job.")
    ] = False,
) -> None:
    """Try a failed job, or deliveries that were refused, again; make anew what is not kept."""
    from dicom_node.admin import retrial

    if bool(key) == failed:
        raise typer.BadParameter("name one job by its KEY, or give --failed for all that are")
    now = datetime.now(UTC)
    if not failed:
        typer.echo(retrial.retry(config, os.environ, key, now))
        return
    done = retrial.retry_failed(config, os.environ, now)
    for line in done.retried:
        typer.echo(line)
    if done.decided_again:
        films = "1 film is" if done.decided_again == 1 else f"{done.decided_again} films are"
        typer.echo(f"{films} decided about again")
    for line in done.left:
        typer.echo(line, err=True)
    if done.left:
        raise typer.Exit(1)


@app.command()
def reconcile(
    config: ConfigPath = DEFAULT_CONFIG,
    since: Annotated[str, typer.Option(help="How long ago: 30m, 24h, 7d.")] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
) -> None:
    """Say of every film received where it stands up to committed; exit status 1: one is missing."""
    from dicom_node.admin import reconciliation

    found = reconciliation.films(config, os.environ, since)
    if as_json:
        typer.echo(json.dumps(reconciliation.as_json(found), indent=1))
    else:
        reconciliation.print_report(found)
    sys.exit(0 if reconciliation.is_well(found) else 1)


destinations_app = typer.Typer(
    help="List destinations; hold or release one, move or drop what waits."
)
app.add_typer(destinations_app, name="destinations")
DestinationName = Annotated[str, typer.Argument(help="As config.yaml names it.")]


@destinations_app.callback(invoke_without_command=True)
def destinations(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
) -> None:
    """List destinations, how each is doing and what waits for it."""
    if context.invoked_subcommand:
        return
    from dicom_node.admin import destinations as listed

    lines = listed.lines(config, os.environ)
    if as_json:
        typer.echo(json.dumps([line.as_json() for line in lines], indent=1))
    else:
        listed.print_table(lines)


@destinations_app.command()
def hold(name: DestinationName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Send nothing more there until it is released; results wait."""
    from dicom_node.admin import destinations as listed

    listed.hold(config, os.environ, name, held=True)
    typer.echo(f"{name} is held")


@destinations_app.command()
def release(name: DestinationName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Send at once what has waited, also where the destination was resting."""
    from dicom_node.admin import destinations as listed

    listed.hold(config, os.environ, name, held=False)
    typer.echo(f"{name} is released")


@destinations_app.command()
def move(
    old: Annotated[str, typer.Argument(help="Where results wait, by its name then.")],
    new: Annotated[str, typer.Argument(help="Where they are to go, by its name in config.yaml.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Send to another destination what waits for one that was renamed or removed."""
    from dicom_node.admin import destinations as listed

    typer.echo(f"{listed.move(config, os.environ, old, new)} results go to {new}")


@destinations_app.command()
def drop(name: DestinationName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Give up what waits for a destination that was removed from the configuration."""
    from dicom_node.admin import destinations as listed

    typer.echo(f"{listed.drop(config, os.environ, name)} results wait there no more")


database_app = typer.Typer(
    no_args_is_help=True,
    help="Say which schema the database has; change it, with the node stopped.",
)
app.add_typer(database_app, name="database")


@database_app.command()
def status(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Say which schema the database has; exit status 1: not the one this program needs."""
    from dicom_node.admin import database

    found = database.status(config, os.environ)
    typer.echo(database.words(found))
    sys.exit(0 if found.is_ours else 1)


@database_app.command()
def upgrade(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Bring the schema to this program's, as `serve` does at its start."""
    from dicom_node.admin import database

    database.upgrade(config, os.environ)
    typer.echo(database.words(database.status(config, os.environ)))


@database_app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="The older program's, such as 0001.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Take the schema back to an older program's, before that program is started again."""
    from dicom_node.admin import database

    database.downgrade(config, os.environ, revision)
    typer.echo(database.words(database.status(config, os.environ)))


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
) -> None:
    """Send a synthetic film through a node and a small PACS on this machine; show what returns."""
    from dicom_node.admin import demonstration

    demonstration.run(out)


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
    if done.in_use:
        typer.echo("The node is configured to go on with this model; set model.path to another.")
    if done.open:
        typer.echo(f"{done.open} films are still being analysed with it; run this again later.")
    if done.unnamed:
        typer.echo("Purged here, so no note can be made; reject these SOP Instance UIDs there:")
        typer.echo("\n".join(done.unnamed))
    if not done.complete:
        raise typer.Exit(1)


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
    GATE = "gate"
    WHOLE_LUNG = "whole-lung"
    CLASSIFIER = "classifier"
    RIVAL = "rival"


class TuningForm(StrEnum):
    """What a fine-tuned U-Net is given."""

    PAIRED = "paired"
    PLAIN = "plain"


@app.command()
def train(
    part: Annotated[Part, typer.Argument(help="What to train; see docs/training.md.")],
    data: DataPath,
    work: WorkPath,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time to make what is learnt from, and to learn, over all resumed runs; "
            "without, see docs/training.md."
        ),
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    base: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="diffusion: fine-tune this Stable-Diffusion-class folder. "
            "whole-lung: begin with this model folder's adapter.",
        ),
    ] = None,
    form: Annotated[
        TuningForm, typer.Option(help="With --from: see the source beside z_t, or not.")
    ] = TuningForm.PAIRED,
    text_encoder: Annotated[
        bool, typer.Option("--text-encoder", help="With --from: train it too.")
    ] = False,
    lora: Annotated[
        int, typer.Option(help="With --from: the rank of adapters; 0 is none.", min=0)
    ] = 0,
) -> None:
    """Train a part of a model of your own."""
    from dicom_node.admin import training

    tunes = base is not None and part is Part.DIFFUSION
    if not tunes and (lora or text_encoder or form is not TuningForm.PAIRED):
        raise typer.BadParameter(
            "--form, --text-encoder and --lora go with: train diffusion --from"
        )
    if base is None or part is Part.WHOLE_LUNG:
        training.train(part.value, data, work, minutes, device, seed, base)
        return
    if part is not Part.DIFFUSION:
        raise typer.BadParameter("--from goes with: train diffusion, train whole-lung")
    plan = training.plan(form.value, train_text=text_encoder, lora_rank=lora)
    training.fine_tune(base, data, work, minutes, device, seed, plan)


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
    data: Annotated[Path | None, typer.Option(help="Folder with cxr256/.")] = None,
    work: Annotated[Path | None, typer.Option(help="WORK/model is calibrated.")] = None,
    films: Annotated[int, typer.Option(help="Healthy films to use; 0 is all.", min=0)] = 0,
    healthy: Annotated[
        Path | None, typer.Option(help="Folder of a site's own films without a finding.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="With --healthy: calibrate a copy of it.")
    ] = "embedded",
    out: Annotated[Path | None, typer.Option(help="With --healthy: where the copy goes.")] = None,
    device: Device = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time for this call: then it stops after a film; run again, it goes on. "
            "Without, until it is done."
        ),
    ] = None,
) -> None:
    """Set how maps are read: by --data and --work, or for a site by --healthy and --out."""
    from dicom_node.admin import training

    ours, sites = (data, work), (healthy, out)
    if any(ours) and any(sites):
        raise typer.BadParameter("give --data and --work, or --healthy and --out, not of both")
    if healthy is not None and films:
        raise typer.BadParameter("--films goes with --data: of a site's own films all are used")
    if healthy is not None and out is not None:
        training.calibrate_site(healthy, model, out, device, minutes)
    elif data is not None and work is not None:
        training.calibrate(data, work, films, device, minutes)
    else:
        raise typer.BadParameter("give --data and --work, or --healthy and --out")


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="The picture, as PNG.")] = Path("gallery.png"),
    model: Annotated[str, typer.Option(help='"embedded" or a folder.')] = "embedded",
    seed: Annotated[int, typer.Option(help="Of the first film; the others have the next.")] = 1,
) -> None:
    """Draw films of no patient, induce a finding in each zone, and show what is made of them."""
    from dicom_node.admin import gallery as drawing

    drawing.write(out, model, seed)
    typer.echo(str(out))


@app.command()
def induce(
    image: Annotated[Path, typer.Argument(help="DICOM, PNG or JPEG.")],
    prompt: Annotated[str, typer.Option(help='Such as "right lower lobe opacity".')],
    out: Annotated[Path, typer.Option(help="Folder for what is made.")],
    mask: Annotated[Path | None, typer.Option(help="PNG: white is where it may change.")] = None,
    region: Annotated[
        str | None, typer.Option(help="x0,y0,x1,y1 in pixels of the film: instead of a mask.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model folder, or embedded.")] = "embedded",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
) -> None:
    """Induce a finding in a film by prompt: for research and teaching, marked as synthetic."""
    from dicom_node.admin import inducing

    wanted = inducing.Wanted(prompt=prompt, mask=mask, region=region, model=model, seed=seed)
    inducing.induce(image, out, wanted, as_json=as_json)


@app.command()
def evaluate(
    data: DataPath,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, evaluation.md, evaluation.html."),
    ] = None,
    part: Annotated[str, typer.Option(help="dev to choose, test to report.")] = "dev",
    mode: Annotated[Mode, typer.Option(help="How the counterpart is made.")] = Mode.CALIBRATED,
    model: Annotated[str, typer.Option(help="A model folder, or embedded.")] = "embedded",
    judges: Annotated[
        Path | None, typer.Option(help="Folder with a classifier of your own (docs/training.md).")
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            help="torchvision's inception_v3 for FID and KID, its .pth saved as safetensors."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for the edits (3 MB each), so that a stopped run goes on."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(help="Films a group, and a source and label, at most; 0 is all.", min=0),
    ] = 0,
    maps_only: Annotated[
        bool, typer.Option("--maps-only", help="Where maps point and which normal films they mark.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave this section out (oracle and induction take longest); repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line.")] = False,
) -> None:
    """Measure a model against baselines on films with boxes, masks and labels."""
    from dicom_node.admin import measuring

    measuring.run(
        *(data, part, limit, mode, model, judges, out, keep, inception),
        maps_only=maps_only,
        without=without or (),
        as_json=as_json,
    )
