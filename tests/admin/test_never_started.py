"""Commands that look at what a node has done, where it has done nothing yet."""

from pathlib import Path

import pytest

from dicom_node.errors import NodeError
from tests.admin import commands

COMMANDS = (
    ("jobs",),
    ("retry", "0123456789"),
    ("reconcile",),
    ("retract", "--model", "0123456789"),
    ("destinations",),
    ("destinations", "hold", "pacs"),
    ("destinations", "move", "old", "pacs"),
    ("destinations", "drop", "old"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_node_that_was_never_started_has_no_database_and_is_given_none(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    config = commands.config(tmp_path, "embedded")
    done = commands.vald(*command, "--config", config)
    assert isinstance(done.exception, NodeError)
    assert "`vald-node serve` was never started" in str(done.exception)
    assert list(tmp_path.iterdir()) == [config]
