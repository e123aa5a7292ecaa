"""`vald-node` as a user calls it, in this process, and configurations to call it with."""

from pathlib import Path

import yaml
from typer.testing import CliRunner, Result

from dicom_node import cli
from tests.peers import tools


def vald(*arguments: object) -> Result:
    """The command's exit status and output."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def config(folder: Path, model: Path | str, **storage: str) -> Path:
    """A configuration file whose destination is away."""
    path = folder / "config.yaml"
    keys = {
        "node": {"accept": "any"},
        "storage": {"database": "sqlite:///var/vald.db", "objects": "var/objects", **storage},
        "model": {"path": str(model), "device": "cpu", "seed": 3},
        "destinations": {
            "pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": tools.free_port()}
        },
        "rules": [{"name": "all", "results": ["secondary_capture"], "destinations": ["pacs"]}],
    }
    path.write_text(yaml.safe_dump(keys))
    return path
