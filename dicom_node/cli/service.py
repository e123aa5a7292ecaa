"""Commands of the node at work: run it, see where films stand, try again, recall."""

import json
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from dicom_node.cli.options import DEFAULT_CONFIG, AsList, AsObject, ConfigPath

app = typer.Typer()


class JobFilter(StrEnum):
    """States that `jobs --state` knows."""

    RECEIVED = "RECEIVED"
    RUNNING = "RUNNING"
    PRODUCED = "PRODUCED"
    DELIVERED = "DELIVERED"
    COMMITTED = "COMMITTED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"


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
    as_json: AsList = False,
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
    as_json: AsObject = False,
) -> None:
    """Say of every film received where it stands up to committed; exit status 1: one is missing."""
    from dicom_node.admin import reconciliation

    found = reconciliation.films(config, os.environ, since)
    if as_json:
        typer.echo(json.dumps(reconciliation.as_json(found), indent=1))
    else:
        reconciliation.print_report(found)
    sys.exit(0 if reconciliation.is_well(found) else 1)


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
