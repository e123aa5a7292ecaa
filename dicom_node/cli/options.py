"""What commands of several rooms are given."""

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration file.", envvar="VALD_CONFIG")
]
DEFAULT_CONFIG = Path("config.yaml")
AsObject = Annotated[bool, typer.Option("--json", help="One object.")]
AsList = Annotated[bool, typer.Option("--json", help="A list of objects.")]
