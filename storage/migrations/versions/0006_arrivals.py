"""When a film came for the last time, and whether to another one's job."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_received = sa.table(
    "received",
    *map(sa.column, ("number", "sop_instance_uid", "digest", "calling_ae_title", "job_key")),
    sa.column("joined", sa.Boolean),
)
_jobs = sa.table("jobs", *map(sa.column, ("key", "sop_instance_uid", "digest", "calling_ae_title")))


def upgrade() -> None:
    """Films before came once, as far as is known; of a job's those after its own had joined it."""
    op.add_column("received", sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "received", sa.Column("joined", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    own = _received.alias()
    same = ("sop_instance_uid", "digest", "calling_ae_title")
    first = (
        sa.select(own.c.number)
        .join(_jobs, sa.and_(*(_jobs.c[name] == own.c[name] for name in same)))
        .where(_jobs.c.key == _received.c.job_key)
        .correlate(_received)
        .scalar_subquery()
    )
    op.execute(_received.update().where(_received.c.number > first).values(joined=True))


def downgrade() -> None:
    """Take them away: the older program goes by the number."""
    # Not by Alembic's batches: they would drop tables that others refer to. SQLite 3.35 and later.
    for name in ("joined", "arrived_at"):
        op.drop_column("received", name)
