"""When the operator has tried a delivery again: its age counts from then."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of retries before it is not known when they were."""
    op.add_column("deliveries", sa.Column("retried_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Take it away; nothing that is on its way needs it."""
    # Not by Alembic's batches: they would drop tables that others refer to. SQLite 3.35 and later.
    op.drop_column("deliveries", "retried_at")
