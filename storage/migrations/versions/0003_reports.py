"""What each transaction asked about, and what the node says of itself."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and a table; of transactions before it is not known what they asked about."""
    op.add_column("transactions", sa.Column("sop_instance_uids", sa.JSON(), nullable=True))
    op.create_table(
        "notices",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_notices")),
    )


def downgrade() -> None:
    """Take them away; nothing that is on its way needs them."""
    op.drop_table("notices")
    # Not by Alembic's batches: they would drop tables that others refer to. SQLite 3.35 and later.
    op.drop_column("transactions", "sop_instance_uids")
