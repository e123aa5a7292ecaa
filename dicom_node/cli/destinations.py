"""Commands about where results go."""

import json
import os
from typing import Annotated

import typer

from dicom_node.cli.options import DEFAULT_CONFIG, AsList, ConfigPath

app = typer.Typer(help="List destinations; hold or release one, move or drop what waits.")
DestinationName = Annotated[str, typer.Argument(help="As config.yaml names it.")]


@app.callback(invoke_without_command=True)
def destinations(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsList = False,
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


@app.command()
def hold(name: DestinationName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Send nothing more there until it is released; results wait."""
    from dicom_node.admin import destinations as listed

    listed.hold(config, os.environ, name, held=True)
    typer.echo(f"{name} is held")


@app.command()
def release(name: DestinationName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Send at once what has waited, also where the destination was resting."""
    from dicom_node.admin import destinations as listed

    listed.hold(config, os.environ, name, held=False)
    typer.echo(f"{name} is released")


@app.command()
def move(
    old: Annotated[str, typer.Argument(help="Where results wait, by its name then.")],
    new: Annotated[str, typer.Argument(help="Where they are to go, by its name in config.yaml.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Send to another destination what waits for one that was renamed or removed."""
    from dicom_node.admin import destinations as listed

    typer.echo(f"{listed.move(config, os.environ, old, new)} results go to {new}")


@app.command()
def drop(name: DestinationName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Give up what waits for a destination that was removed from the configuration."""
    from dicom_node.admin import destinations as listed

    typer.echo(f"{listed.drop(config, os.environ, name)} results wait there no more")
