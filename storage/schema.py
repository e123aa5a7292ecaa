"""The tables, once, for SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import TypeDecorator

from storage.words import legible

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=_NAMES)

UID = String(64)  # PS3.5 6.2, VR UI
AE = String(16)  # PS3.5 6.2, VR AE
DIGEST = String(64)  # SHA-256 in hexadecimal
ROW = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers INTEGER keys only


class Moment(TypeDecorator[datetime]):
    """A point in time that comes back aware and UTC on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """Refuse naive times: nobody knows what they mean."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times are aware and UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """SQLite forgets the zone; it was UTC."""
        if value is None:
            return None
        aware: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return aware.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text that may come from outside."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Keep what both databases can hold."""
        return None if value is None else legible(value)


received = Table(
    "received",
    metadata,
    Column("number", ROW, primary_key=True, autoincrement=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("sop_instance_uid", UID, nullable=False, index=True),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("calling_ae_title", AE, nullable=False),
    Column("address", String(64), nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("object_name", Text, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("decision", Words, nullable=False),
    Column("job_key", DIGEST, nullable=False, index=True),
    Column("purged_at", Moment),
    Column("arrived_at", Moment),
    Column("joined", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("sop_instance_uid", "digest", "calling_ae_title"),
)
Index(
    "ix_received_unrouted",
    received.c.number,
    sqlite_where=received.c.decision == "",
    postgresql_where=received.c.decision == "",
)

jobs = Table(
    "jobs",
    metadata,
    Column("key", DIGEST, primary_key=True),
    Column("sop_instance_uid", UID, nullable=False, index=True),
    Column("identity_digest", DIGEST, nullable=False),
    Column("object_name", Text, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("calling_ae_title", AE, nullable=False),
    Column("rule", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("model_digest", DIGEST, nullable=False),
    Column("mode", String(32), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("results", JSON, nullable=False),
    Column("destinations", JSON, nullable=False),
    Column("supersedes", String(64), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Words, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("lease_owner", Text),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_until", Moment),
    Column("promised", JSON),
    Index(None, "state", "created_at"),
)

results = Table(
    "results",
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("job_key", DIGEST, ForeignKey(jobs.c.key), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("sop_class_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("object_name", Text, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("purged_at", Moment),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sop_instance_uid", UID, ForeignKey(results.c.sop_instance_uid), primary_key=True),
    Column("destination", String(255), primary_key=True),
    Column("job_key", DIGEST, ForeignKey(jobs.c.key), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Moment, nullable=False),
    Column("reason", Words, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", Moment),
    Column("status", String(16), nullable=False, server_default=""),
    Column("transaction_uid", UID, nullable=False, server_default="", index=True),
    Column("asked", Integer, nullable=False, server_default=text("0")),
    Column("retried_at", Moment),
    Column("delivered_at", Moment),
    Column("promised", Boolean, nullable=False, server_default=false()),
    Index(None, "state", "destination", "next_attempt_at"),
)
Index(
    "ix_deliveries_promised",
    deliveries.c.state,
    deliveries.c.destination,
    deliveries.c.next_attempt_at,
    sqlite_where=text("promised = 1"),  # as queries have it, else it is not used
    postgresql_where=text("promised"),
)

transactions = Table(
    "transactions",
    metadata,
    Column("uid", UID, primary_key=True),
    Column("destination", String(255), nullable=False),
    Column("asked_at", Moment, nullable=False),
    Column("sop_instance_uids", JSON),
)

notices = Table(
    "notices",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("at", Moment, nullable=False),
    Column("text", Words, nullable=False),
)

destinations = Table(
    "destinations",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("held", Boolean, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("retry_at", Moment),
    Column("reason", Words, nullable=False),
    Column("changed_at", Moment, nullable=False),
)
