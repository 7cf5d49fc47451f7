"""Jobs, audit log and statistics: the first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cache_management.models.base import PortableJSON, RowId, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LIVE = sa.text("state IN ('queued', 'dispatched', 'running', 'pausing', 'paused', 'cancelling')")

# The audit log only grows. Postgres: one statement trigger, TRUNCATE included.
# SQLite: one trigger for each verb, and no TRUNCATE to refuse.
REFUSE_POSTGRES = (
    """
    CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit_log is append-only: % refused', TG_OP;
    END $$
    """,
    """
    CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()
    """,
)
REFUSE_SQLITE = tuple(
    f"""
    CREATE TRIGGER audit_log_no_{verb.lower()} BEFORE {verb} ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: {verb} refused'); END
    """
    for verb in ("UPDATE", "DELETE")
)


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("client_at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("args_digest", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("error_class", sa.String(), nullable=True),
        sa.Column("prev_hash", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_job_id", "audit_log", ["job_id"], unique=False)

    op.create_table(
        "cache_stats",
        sa.Column("period_start", UtcDateTime(), nullable=False),
        sa.Column("period_seconds", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("period_start", "period_seconds", "namespace", "name", name=op.f("pk_cache_stats")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("idem_key", sa.String(), nullable=True),
        sa.Column("retry_of", sa.String(), nullable=True),
        sa.Column("params", PortableJSON, nullable=False),
        sa.Column("params_sha", sa.String(), nullable=False),
        sa.Column("schema_version", sa.BigInteger(), nullable=False),
        sa.Column("summary", PortableJSON, nullable=False),
        sa.Column("submitted_by", sa.String(), nullable=False),
        sa.Column("cancel_reason", sa.String(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("cost_micro", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("deadline", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "cancel_reason IS NULL OR cancel_reason IN ('user', 'deadline')", name=op.f("ck_jobs_cancel_reason")
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'dispatched', 'running', 'pausing', 'paused', 'cancelling', "
            "'cancelled', 'succeeded', 'partial', 'failed')",
            name=op.f("ck_jobs_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_state", "jobs", ["state"], unique=False)
    op.create_index(
        "uq_jobs_live_idem_key",
        "jobs",
        ["namespace", "kind", "idem_key"],
        unique=True,
        postgresql_where=LIVE,
        sqlite_where=LIVE,
    )

    op.create_table(
        "schedule_slots",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("slot", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("claimed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "slot", name=op.f("pk_schedule_slots")),
    )
    op.create_table(
        "worker_marks",
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "worker", name=op.f("pk_worker_marks")),
    )
    op.create_table(
        "job_events",
        sa.Column("id", RowId, nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("shard", sa.BigInteger(), nullable=True),
        sa.Column("detail", PortableJSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index("ix_job_events_job_id_id", "job_events", ["job_id", "id"], unique=False)

    op.create_table(
        "job_inputs",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("part", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_inputs_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "part", name=op.f("pk_job_inputs")),
    )
    op.create_table(
        "job_items",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("shard", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("item_key", sa.String(), nullable=False),
        sa.Column("part", sa.BigInteger(), nullable=False),
        sa.Column("part_index", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'done', 'skipped', 'dead', 'cancelled')", name=op.f("ck_job_items_state")
        ),
        sa.CheckConstraint("position > 0", name=op.f("ck_job_items_position")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_items_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "shard", "position", name=op.f("pk_job_items")),
        sa.UniqueConstraint("job_id", "item_key", name=op.f("uq_job_items_job_id_item_key")),
    )
    op.create_table(
        "job_shards",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("shard", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("follows", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_task", sa.String(), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("claimed_at", UtcDateTime(), nullable=True),
        sa.Column("heartbeat_at", UtcDateTime(), nullable=True),
        sa.Column("dispatched_at", UtcDateTime(), nullable=True),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("deliveries", sa.BigInteger(), nullable=False),
        sa.Column("single", sa.Boolean(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("cost_micro", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(kind = 'embed') = (follows IS NOT NULL)", name=op.f("ck_job_shards_follows")),
        sa.CheckConstraint("kind IN ('plan', 'data', 'embed')", name=op.f("ck_job_shards_kind")),
        sa.CheckConstraint("state IN ('open', 'done', 'failed', 'cancelled')", name=op.f("ck_job_shards_state")),
        sa.CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name=op.f("ck_job_shards_lease")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_shards_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "shard", name=op.f("pk_job_shards")),
    )
    postgres = op.get_bind().dialect.name == "postgresql"
    for statement in REFUSE_POSTGRES if postgres else REFUSE_SQLITE:
        op.execute(statement)


def downgrade() -> None:
    # Children before parents; indexes and triggers go with their table.
    for table in (
        "job_shards",
        "job_items",
        "job_inputs",
        "job_events",
        "jobs",
        "worker_marks",
        "schedule_slots",
        "cache_stats",
        "audit_log",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_log_refuse()")
