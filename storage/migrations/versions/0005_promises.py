"""A film is recorded once for each sender, and a job knows what it promised to whom."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ONCE = ["sop_instance_uid", "digest"]
_ONCE_A_SENDER = [*_ONCE, "calling_ae_title"]
_UNROUTED = "ix_received_unrouted"
_SHARE_A_KEPT_FILE = """
    UPDATE received SET purged_at = NULL WHERE purged_at IS NOT NULL AND EXISTS (
        SELECT 1 FROM received AS other WHERE other.sop_instance_uid = received.sop_instance_uid
        AND other.digest = received.digest AND other.purged_at IS NULL)
"""
# What is yet to be done with its file comes first, and then the first to have sent it.
_KEEP_ONE_OF_A_FILM = """
    DELETE FROM received WHERE number IN (
        SELECT number FROM (
            SELECT film.number AS number, ROW_NUMBER() OVER (
                PARTITION BY film.sop_instance_uid, film.digest
                ORDER BY CASE
                    WHEN jobs.state IN ('RECEIVED', 'RUNNING', 'FAILED') THEN 0
                    WHEN film.decision = '' THEN 1
                    WHEN film.job_key <> '' THEN 2
                    ELSE 3
                END, film.number
            ) AS turn
            FROM received AS film LEFT JOIN jobs ON jobs.key = film.job_key
        ) AS ranked WHERE turn > 1)
"""


def upgrade() -> None:
    """What jobs before promised is in their results and destinations."""
    op.add_column("jobs", sa.Column("promised", sa.JSON(), nullable=True))
    _replace_unique(_ONCE, _ONCE_A_SENDER)


def downgrade() -> None:
    """The older program knows one sender of a film, and sends all of a job's results everywhere.

    So what a job that is yet to produce promised to anyone goes to all that it promised something,
    and of a film's rows that one stays which needs its file the most.
    """
    _fold_promises()
    op.execute(_SHARE_A_KEPT_FILE)
    op.execute(_KEEP_ONE_OF_A_FILM)
    _replace_unique(_ONCE_A_SENDER, _ONCE)
    op.drop_column("jobs", "promised")


def _replace_unique(old: list[str], new: list[str]) -> None:
    # SQLite makes a new table for that, which no other refers to; its partial index goes with the
    # old one.
    op.drop_index(_UNROUTED, table_name="received")
    with op.batch_alter_table("received") as batch:
        batch.drop_constraint("_".join(["uq_received", *old]), type_="unique")
        batch.create_unique_constraint("_".join(["uq_received", *new]), new)
    undecided = sa.text("decision = ''")
    op.create_index(
        _UNROUTED,
        "received",
        ["number"],
        sqlite_where=undecided,
        postgresql_where=undecided,
    )


def _fold_promises() -> None:
    jobs = sa.table(
        "jobs",
        sa.column("key", sa.String),
        sa.column("state", sa.String),
        sa.column("promised", sa.JSON),
        sa.column("results", sa.JSON),
        sa.column("destinations", sa.JSON),
    )
    owes = jobs.c.state.in_(("RECEIVED", "RUNNING", "FAILED"))
    for row in op.get_bind().execute(sa.select(jobs).where(owes)).all():
        promised: dict[str, list[str]] = row.promised or {}
        kinds = dict.fromkeys(kind for own in promised.values() for kind in own)
        if promised:
            change = jobs.update().where(jobs.c.key == row.key)
            op.execute(change.values(results=list(kinds), destinations=list(promised)))
