"""Tables that keep the house running: statistics, schedule slots, worker marks."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from cache_management.models.base import Base


class StatRollup(Base):
    """How much of something happened in one period."""

    __tablename__ = "cache_stats"

    period_start: Mapped[datetime] = mapped_column(primary_key=True)
    period_seconds: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    namespace: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class ScheduleSlot(Base):
    """One run of something periodic: the first to insert it does the run."""

    __tablename__ = "schedule_slots"

    kind: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    claimed_at: Mapped[datetime]


class WorkerMark(Base):
    """When a worker last took something from a queue."""

    __tablename__ = "worker_marks"

    queue: Mapped[str] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]
