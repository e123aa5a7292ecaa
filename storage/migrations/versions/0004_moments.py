"""When the operator tried a delivery again, from when its age counts, and when it arrived."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = ("retried_at", "delivered_at")


def upgrade() -> None:
    """Add the columns; of what was before it is not known."""
    for name in _COLUMNS:
        op.add_column("deliveries", sa.Column(name, sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Take them away; nothing that is on its way needs them."""
    # Not by Alembic's batches: they would drop tables that others refer to. SQLite 3.35 and later.
    for name in _COLUMNS:
        op.drop_column("deliveries", name)
