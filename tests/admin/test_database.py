"""`vald-node database`: the schema as an operator sees and changes it."""

from pathlib import Path

import pytest

from tests.admin import commands
from tests.admin.commands import vald


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return commands.config(tmp_path, "embedded")


def test_the_schema_goes_up_and_down_and_is_told(place: Path) -> None:
    new = vald("database", "status", "--config", place)
    assert not (place.parent / "var").exists()
    assert (new.exit_code, new.output.startswith("the database has no schema")) == (1, True)
    assert vald("database", "upgrade", "--config", place).exit_code == 0
    ours = vald("database", "status", "--config", place)
    assert (ours.exit_code, ours.output.endswith("which this program needs\n")) == (0, True)
    old = vald("database", "downgrade", "0001", "--config", place)
    assert (old.exit_code, old.output.startswith("schema 0001; this program needs")) == (0, True)
    assert vald("database", "status", "--config", place).exit_code == 1


def test_the_tables_are_not_dropped_by_a_slip(place: Path) -> None:
    vald("database", "upgrade", "--config", place)
    for wrong in ("base", "9999"):
        refused = vald("database", "downgrade", wrong, "--config", place)
        assert refused.exit_code == 1
        assert str(refused.exception).startswith(f"there is no schema {wrong}; there are: 0001, ")
    assert vald("database", "status", "--config", place).exit_code == 0
