"""Commands about the database of jobs."""

import os
import sys
from typing import Annotated

import typer

from dicom_node.cli.options import DEFAULT_CONFIG, ConfigPath

app = typer.Typer(
    no_args_is_help=True,
    help="Say which schema the database has; change it, with the node stopped.",
)


@app.command()
def status(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Say which schema the database has; exit status 1: not the one this program needs."""
    from dicom_node.admin import database

    found = database.status(config, os.environ)
    typer.echo(database.words(found))
    sys.exit(0 if found.is_ours else 1)


@app.command()
def upgrade(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Bring the schema to this program's, as `serve` does at its start."""
    from dicom_node.admin import database

    database.upgrade(config, os.environ)
    typer.echo(database.words(database.status(config, os.environ)))


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="The older program's, such as 0001.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Take the schema back to an older program's, before that program is started again."""
    from dicom_node.admin import database

    database.downgrade(config, os.environ, revision)
    typer.echo(database.words(database.status(config, os.environ)))
