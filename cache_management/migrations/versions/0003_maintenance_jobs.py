"""Scheduled jobs, statistics by model, hot keys, shared rates; indexes for limits and pruning."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from cache_management.models.base import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hot_keys",
        sa.Column("day", UtcDateTime(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("key_digest", sa.String(), nullable=False),
        sa.Column("hits", sa.BigInteger(), nullable=False),
        sa.Column("misses", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "namespace", "key_digest", name=op.f("pk_hot_keys")),
    )
    op.create_table(
        "usage_cursors",
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("cursor", sa.String(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("stream", name=op.f("pk_usage_cursors")),
    )
    op.create_table(
        "rate_buckets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("filled_at", UtcDateTime(), nullable=False),
        sa.Column("blocked_until", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rate_buckets")),
    )
    # Not in batch mode: adding a column or an index needs no copy of the table on either database.
    op.add_column("schedule_slots", sa.Column("job_id", sa.String(), nullable=True))
    op.create_index("ix_jobs_namespace_state", "jobs", ["namespace", "state"], unique=False)
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"], unique=False)
    _rebuild_stats(by_model=True)


def downgrade() -> None:
    _rebuild_stats(by_model=False)
    op.drop_index("ix_jobs_finished_at", table_name="jobs")
    op.drop_index("ix_jobs_namespace_state", table_name="jobs")
    op.drop_column("schedule_slots", "job_id")
    for table in ("rate_buckets", "usage_cursors", "hot_keys"):
        op.drop_table(table)


def _rebuild_stats(*, by_model: bool) -> None:
    """Copy the statistics into a table with, or without, the model in its key: SQLite can change no key."""
    op.rename_table("cache_stats", "cache_stats_before")
    if op.get_bind().dialect.name == "postgresql":
        # The name of the key stays with the renamed table, and is needed.
        op.execute("ALTER TABLE cache_stats_before RENAME CONSTRAINT pk_cache_stats TO pk_cache_stats_before")
    columns: list[sa.Column[Any]] = [
        sa.Column("period_start", UtcDateTime(), nullable=False),
        sa.Column("period_seconds", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
    ]
    if by_model:
        columns.insert(3, sa.Column("model", sa.String(), nullable=False))
    key = [column.name for column in columns[:-1]]
    op.create_table("cache_stats", *columns, sa.PrimaryKeyConstraint(*key, name=op.f("pk_cache_stats")))
    if by_model:
        op.execute(
            "INSERT INTO cache_stats (period_start, period_seconds, namespace, model, name, value)"
            " SELECT period_start, period_seconds, namespace, '', name, value FROM cache_stats_before"
        )
    else:
        op.execute(
            "INSERT INTO cache_stats (period_start, period_seconds, namespace, name, value)"
            " SELECT period_start, period_seconds, namespace, name, SUM(value) FROM cache_stats_before"
            " GROUP BY period_start, period_seconds, namespace, name"
        )
    op.drop_table("cache_stats_before")
