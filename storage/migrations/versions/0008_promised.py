"""Whether commitment was promised when a result was delivered."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_deliveries = sa.table(
    "deliveries",
    *map(sa.column, ("destination", "state", "reason", "transaction_uid")),
    *map(sa.column, ("next_attempt_at", "delivered_at")),
    sa.column("promised", sa.Boolean),
)
_transactions = sa.table("transactions", sa.column("destination"))


def upgrade() -> None:
    """What was asked about was promised, and what is yet to be: just delivered, or moved, there.

    Of the rest DELIVERED is the end: nothing was promised, or it was dropped.
    """
    op.add_column(
        "deliveries", sa.Column("promised", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    row = _deliveries.c
    asked_there = row.destination.in_(sa.select(_transactions.c.destination))
    is_open = sa.or_(
        row.transaction_uid != "",
        row.reason.startswith("moved from "),
        sa.and_(row.next_attempt_at == row.delivered_at, asked_there),
    )
    op.execute(_deliveries.update().where(row.state == "DELIVERED", is_open).values(promised=True))
    op.create_index(
        "ix_deliveries_promised",
        "deliveries",
        ["state", "destination", "next_attempt_at"],
        sqlite_where=sa.text("promised = 1"),
        postgresql_where=sa.text("promised"),
    )


def downgrade() -> None:
    """Take it away: the older program asks about all that a destination took."""
    op.drop_index("ix_deliveries_promised", table_name="deliveries")
    op.drop_column("deliveries", "promised")
