"""Jobs and what they are made of. The protocol on these rows is in `models/store/`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from cache_management.models.base import Base, RowId

JobState = Literal[
    "queued",
    "dispatched",
    "running",
    "pausing",
    "paused",
    "cancelling",
    "cancelled",
    "succeeded",
    "partial",
    "failed",
]
ShardKind = Literal["plan", "data", "embed"]
ShardState = Literal["open", "done", "failed", "cancelled"]
ItemState = Literal["pending", "done", "skipped", "dead", "cancelled"]

PRIORITY = 5
"""0 to 9, more is sooner; a job has the one in the middle unless somebody says otherwise."""

SCHEDULE_KEY = "schedule:"
"""What the keys of scheduled jobs begin with: of each schedule one job lives at a time."""

ROUTINE_KINDS = frozenset({"stats"})
"""Kinds that run all day by nobody's wish: of these the audit log holds failures only."""

VERIFYING_KIND = "audit-verify"

RUNNABLE: tuple[JobState, ...] = ("queued", "dispatched", "running")
LIVE: tuple[JobState, ...] = (*RUNNABLE, "pausing", "paused", "cancelling")
TERMINAL: tuple[JobState, ...] = ("cancelled", "succeeded", "partial", "failed")


def one_of(column: str, values: tuple[str, ...]) -> str:
    """Write `column IN (...)` for a CHECK or a partial index."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


_LIVE_IDEM = text(one_of("state", LIVE))


class Job(Base):
    """One piece of work; counters are filled in when it ends, until then its shards hold them."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("state", (*LIVE, *TERMINAL)), name="state"),
        CheckConstraint("cancel_reason IS NULL OR cancel_reason IN ('user', 'deadline')", name="cancel_reason"),
        # Two submits of a namespace with one key give one job, until that job has ended.
        Index(
            "uq_jobs_live_idem_key",
            "namespace",
            "kind",
            "idem_key",
            unique=True,
            postgresql_where=_LIVE_IDEM,
            sqlite_where=_LIVE_IDEM,
        ),
        Index("ix_jobs_state", "state"),
        Index("ix_jobs_namespace_state", "namespace", "state"),
        Index("ix_jobs_finished_at", "finished_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    namespace: Mapped[str]
    state: Mapped[str]
    priority: Mapped[int]
    idem_key: Mapped[str | None]
    retry_of: Mapped[str | None]
    params: Mapped[dict[str, Any]]
    params_sha: Mapped[str]
    schema_version: Mapped[int]
    summary: Mapped[dict[str, Any]]
    submitted_by: Mapped[str]
    cancel_reason: Mapped[str | None]
    last_error: Mapped[str | None]
    total: Mapped[int | None]
    done: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    cancelled: Mapped[int] = mapped_column(default=0)
    bytes: Mapped[int] = mapped_column(default=0)
    cost_micro: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    deadline: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobShard(Base):
    """A part of a job with its own cursor; at most one run owns it at a time.

    `bookmark` is the work's own note of where it stands, where a number cannot say it.
    """

    __tablename__ = "job_shards"
    __table_args__ = (
        CheckConstraint(one_of("kind", ("plan", "data", "embed")), name="kind"),
        CheckConstraint(one_of("state", ("open", "done", "failed", "cancelled")), name="state"),
        CheckConstraint("(kind = 'embed') = (follows IS NOT NULL)", name="follows"),
        CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="lease"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    follows: Mapped[int | None]
    state: Mapped[str]
    reason: Mapped[str | None]
    cursor: Mapped[int] = mapped_column(default=0)
    bookmark: Mapped[str | None]
    fence: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_task: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    dispatched_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    deliveries: Mapped[int] = mapped_column(default=0)
    single: Mapped[bool] = mapped_column(default=False)
    done: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    cancelled: Mapped[int] = mapped_column(default=0)
    bytes: Mapped[int] = mapped_column(default=0)
    cost_micro: Mapped[int] = mapped_column(default=0)


class JobInput(Base):
    """What was submitted, compressed, a few hundred items to a part; never in a message.

    Deleted when the job ends, for it holds prompts and answers: all but the parts with items that a retry would need.
    """

    __tablename__ = "job_inputs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    items: Mapped[int]


class JobItem(Base):
    """One item of a job, its place in the input, and how it ended. Dead ones are the dead letters."""

    __tablename__ = "job_items"
    __table_args__ = (
        UniqueConstraint("job_id", "item_key"),
        CheckConstraint(one_of("state", ("pending", "done", "skipped", "dead", "cancelled")), name="state"),
        CheckConstraint("position > 0", name="position"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    item_key: Mapped[str]
    part: Mapped[int]
    part_index: Mapped[int]
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None]


class JobEvent(Base):
    """The timeline of a job; only ever added to."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    event: Mapped[str]
    shard: Mapped[int | None] = mapped_column(BigInteger)
    detail: Mapped[dict[str, Any]]
