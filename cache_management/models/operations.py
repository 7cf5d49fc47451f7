"""Tables that keep the house running: statistics, schedule slots, worker marks, rates."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Float
from sqlalchemy.orm import Mapped, mapped_column

from cache_management.models.base import Base


class StatRollup(Base):
    """How much of something happened in one period, for a model ("" where no model is meant)."""

    __tablename__ = "cache_stats"

    period_start: Mapped[datetime] = mapped_column(primary_key=True)
    period_seconds: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    namespace: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True, default="")
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class HotKey(Base):
    """How often an entry was asked for on one day; by digest, because a key may be a prompt."""

    __tablename__ = "hot_keys"

    day: Mapped[datetime] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(primary_key=True)
    key_digest: Mapped[str] = mapped_column(primary_key=True)
    hits: Mapped[int] = mapped_column(default=0)
    misses: Mapped[int] = mapped_column(default=0)


class UsageCursor(Base):
    """How far the notes of the applications are counted; moves with the counts, in one transaction."""

    __tablename__ = "usage_cursors"

    stream: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[str]
    updated_at: Mapped[datetime]


class RateBucket(Base):
    """A token bucket that all workers share, such as the calls that a provider permits."""

    __tablename__ = "rate_buckets"

    name: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[float] = mapped_column(Float)
    filled_at: Mapped[datetime]
    blocked_until: Mapped[datetime | None]


class ScheduleSlot(Base):
    """One run of something periodic: the first to insert it does the run, as the job it names."""

    __tablename__ = "schedule_slots"

    kind: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    claimed_at: Mapped[datetime]
    job_id: Mapped[str | None]


class WorkerMark(Base):
    """When a worker last took something from a queue."""

    __tablename__ = "worker_marks"

    queue: Mapped[str] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]
