"""`--help` of every command."""

import json
import subprocess
import sys

from tests.admin import commands

_ASK_ALL = """
import json, sys
import typer
from typer.testing import CliRunner
from dicom_node import cli

def paths(command, path=()):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))

asked = {}
for path in paths(typer.main.get_command(cli.app)):
    asked[" ".join(path)] = CliRunner().invoke(cli.app, [*path, "--help"]).exit_code
heavy = [name for name in ("torch", "diffusers", "highdicom", "sqlalchemy") if name in sys.modules]
print(json.dumps({"asked": asked, "heavy": heavy}))
"""


def test_every_commands_help_works_and_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASK_ALL], capture_output=True, text=True, timeout=60, check=True
    )
    said = json.loads(done.stdout)
    assert said["heavy"] == []
    assert set(said["asked"].values()) == {0}
    assert said["asked"].keys() == {
        *("", "serve", "check", "jobs", "retry", "reconcile", "attribute", "demo"),
        *("train", "assemble", "calibrate", "evaluate", "induce", "render", "retract", "gallery"),
        *("destinations", "destinations hold", "destinations release"),
        *("destinations move", "destinations drop"),
        *("database", "database status", "database upgrade", "database downgrade"),
    }


def test_the_version_is_one_line() -> None:
    done = commands.vald("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("vald-node ")


def test_a_command_that_is_not_known_is_refused() -> None:
    assert commands.vald("analyse").exit_code == 2
