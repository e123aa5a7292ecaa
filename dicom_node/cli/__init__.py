"""The command `vald-node`. Each command imports what it needs, so that the receiver starts lean."""

import errno
import sys
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.cli import database, destinations, films, models, service
from dicom_node.errors import NodeError
from pipeline.errors import PipelineError
from storage.errors import StorageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Receives chest X-rays by DICOM and returns their visual attribution. For research, "
    "not for diagnosis.",
)
for _room in (service, films, models):
    app.add_typer(_room.app)
app.add_typer(destinations.app, name="destinations")
app.add_typer(database.app, name="database")

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Run the command; an error that has an owner ends in one line and exit status 1.

    So does a disk that is full, whoever was writing.
    """
    try:
        app()
    except (NodeError, PipelineError, StorageError) as fault:
        sys.stderr.write(f"vald-node: {fault}\n")
        sys.exit(1)
    except OSError as fault:
        if fault.errno not in _NO_SPACE:
            raise
        where = fault.filename or "a file"
        sys.stderr.write(f"vald-node: {where}: {fault.strerror}; make room, then run it again\n")
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
