"""Commitment, what each attempt said, destinations that rest, and what was purged."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns and tables; rows in every state stay as they are."""
    for column in (
        _text("status", 16),
        _text("transaction_uid", 64),
        sa.Column("asked", sa.Integer(), nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("deliveries", column)
    op.create_index("ix_deliveries_transaction_uid", "deliveries", ["transaction_uid"])
    for table in ("received", "results"):
        op.add_column(table, sa.Column("purged_at", _MOMENT, nullable=True))
    op.create_table(
        "transactions",
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=255), nullable=False),
        sa.Column("asked_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_transactions")),
    )
    op.create_table(
        "destinations",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", _MOMENT, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destinations")),
    )


def downgrade() -> None:
    """Take them away; states become the nearest that the older program has a way out of.

    What expired is REFUSED, for `retry` to send. What was held is DUE: nobody could release it.
    """
    op.execute("UPDATE deliveries SET state = 'DUE' WHERE state = 'HELD'")
    op.execute("UPDATE deliveries SET state = 'REFUSED' WHERE state = 'EXPIRED'")
    op.drop_table("destinations")
    op.drop_table("transactions")
    # Not by Alembic's batches: they would drop tables that others refer to. SQLite 3.35 and later.
    for table in ("results", "received"):
        op.drop_column(table, "purged_at")
    op.drop_index("ix_deliveries_transaction_uid", table_name="deliveries")
    for name in ("asked", "transaction_uid", "status"):
        op.drop_column("deliveries", name)


def _text(name: str, length: int) -> "sa.Column[str]":
    return sa.Column(name, sa.String(length=length), nullable=False, server_default="")
