"""Which films had come to another one's job before anybody wrote it down."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_FILM = ("sop_instance_uid", "digest", "calling_ae_title")
_received = sa.table(
    "received",
    *map(sa.column, (*_FILM, "job_key", "arrived_at")),
    sa.column("joined", sa.Boolean),
)
_jobs = sa.table("jobs", *map(sa.column, ("key", *_FILM)))


def upgrade() -> None:
    """Of a job's films all but its own had joined it, whichever came first.

    One that had failed before the job was made of another may be tried once more for that. Those
    that came again since 0006 are known.
    """
    same = (_jobs.c[name] == _received.c[name] for name in _FILM)
    its_own = sa.select(_jobs.c.key).where(_jobs.c.key == _received.c.job_key, *same)
    others = ~its_own.correlate(_received).exists()
    told_since = _received.c.arrived_at.is_not(None)
    has_job = _received.c.job_key != ""
    op.execute(_received.update().where(has_job, ~told_since, others).values(joined=True))


def downgrade() -> None:
    """Nothing: an older program can do with it."""
