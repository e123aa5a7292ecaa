"""When a film came for the last time, and whether to another one's job."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Films before came once, as far as is known; whether to another one's job says 0007."""
    op.add_column("received", sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "received", sa.Column("joined", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    """Take them away: the older program goes by the number."""
    # Not by Alembic's batches: they would drop tables that others refer to. SQLite 3.35 and later.
    for name in ("joined", "arrived_at"):
        op.drop_column("received", name)
