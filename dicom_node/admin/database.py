"""`vald-node database`: which schema the database has; up to ours, or down to an older one."""

from collections.abc import Mapping
from pathlib import Path

from dicom_node import wiring
from dicom_node.errors import NodeError
from storage import migrate
from storage.migrate import Schema


def status(path: Path, environ: Mapping[str, str]) -> Schema:
    """The database's schema and those that this program knows. Raises StorageError."""
    return migrate.status(_url(path, environ))


def words(schema: Schema) -> str:
    """A line that says what there is, and what is to be done."""
    if not schema.found:
        return f"the database has no schema; this program needs {schema.known[-1]}: upgrade"
    if schema.is_ours:
        return f"schema {schema.found}, which this program needs"
    if schema.found not in schema.known:
        return f"schema {schema.found} is a newer program's; this one needs {schema.known[-1]}"
    return f"schema {schema.found}; this program needs {schema.known[-1]}: upgrade"


def upgrade(path: Path, environ: Mapping[str, str]) -> None:
    """The schema is this program's. Raises StorageError."""
    migrate.up(_url(path, environ))


def downgrade(path: Path, environ: Mapping[str, str], revision: str) -> None:
    """The schema is an older program's, with every job and delivery where it was.

    Raises:
        NodeError: this program does not know that schema.
        StorageError: the database is away, or newer than this program.
    """
    known = status(path, environ).known
    if revision not in known:
        raise NodeError(f"there is no schema {revision}; there are: {', '.join(known)}")
    migrate.down(_url(path, environ), revision)


def _url(path: Path, environ: Mapping[str, str]) -> str:
    return wiring.read_config(path, environ).storage.database
