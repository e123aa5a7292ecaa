"""Run by Alembic: the connection, with its lock, is handed over by storage.migrate."""

from alembic import context

from storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by making a new one
    transactional_ddl=False,  # the transaction is storage.migrate's
)
context.run_migrations()
