"""Delete history that nobody needs any more, a bounded number of rows at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, or_, select, tuple_

from cache_management.models.base import Clock, Database, read_clock
from cache_management.models.job import ROUTINE_KINDS, TERMINAL, Job, JobInput, JobItem
from cache_management.models.operations import HotKey, StatRollup, WorkerMark
from cache_management.models.store.census import delete_jobs
from cache_management.models.store.lifecycle import later
from cache_management.models.usage import DAY_SECONDS

_MINUTES_KEPT_DAYS = 2
_ITEMS_TO_A_ROW = 25  # so many of them are deleted as quickly as one of the others
_MARKS_KEPT_SECONDS = DAY_SECONDS  # as long as heartbeats are sent to a queue that nobody consumes


class Keep(msgspec.Struct, frozen=True):
    """How many days history is kept, from its end."""

    jobs_days: float = 30
    inputs_days: float = 7
    routine_days: float = 1
    stats_days: float = 90


class Pruned(msgspec.Struct, frozen=True):
    """How much of each kind went."""

    jobs: int = 0
    items: int = 0
    inputs: int = 0
    stats: int = 0
    hot_keys: int = 0
    marks: int = 0

    @property
    def total(self) -> int:
        """Return all of it."""
        return sum(msgspec.structs.astuple(self))


class PruningStore:
    """What the prune job asks of the database. The audit log is never pruned: it is append-only."""

    def __init__(self, database: Database, *, clock: Clock = read_clock) -> None:
        self._database, self._clock = database, clock

    def prune(self, keep: Keep, *, limit: int = 200) -> Pruned:
        """Delete what is older than is kept, at most `limit` rows of each kind; repeat until nothing went.

        Jobs go with their shards, items and timeline once they have ended. What a retry would need of their
        inputs goes sooner: it holds prompts. Minutes of statistics go after two days; days are kept for ever.
        """
        with self._database.write() as connection:
            now = self._clock(connection)
            return Pruned(
                # Before their jobs: one job may have a million, and a transaction shall stay short.
                items=_items(connection, now, keep, _ITEMS_TO_A_ROW * limit),
                jobs=_jobs(connection, now, keep, limit),
                inputs=_inputs(connection, now, keep, limit),
                stats=_stats(connection, now, keep, limit),
                hot_keys=_some(connection, HotKey.__table__, HotKey.day < _ago(now, keep.stats_days), limit),
                marks=_some(
                    connection, WorkerMark.__table__, WorkerMark.seen_at < later(now, -_MARKS_KEPT_SECONDS), limit
                ),
            )


def _ago(now: datetime, days: float) -> datetime:
    return later(now, -days * DAY_SECONDS)


def _old(now: datetime, keep: Keep) -> ColumnElement[bool]:
    """Match the jobs that are kept no longer."""
    routine = and_(
        Job.kind.in_(ROUTINE_KINDS), Job.state == "succeeded", Job.finished_at < _ago(now, keep.routine_days)
    )
    return and_(Job.state.in_(TERMINAL), or_(Job.finished_at < _ago(now, keep.jobs_days), routine))


def _items(connection: Connection, now: datetime, keep: Keep, limit: int) -> int:
    old = select(Job.id).where(_old(now, keep))
    return _some(connection, JobItem.__table__, JobItem.job_id.in_(old), limit)


def _jobs(connection: Connection, now: datetime, keep: Keep, limit: int) -> int:
    has_items = select(JobItem.job_id).where(JobItem.job_id == Job.id).exists()
    chosen = connection.execute(select(Job.id).where(_old(now, keep), ~has_items).limit(limit)).scalars().all()
    # Shards, inputs and events go with their job.
    return delete_jobs(connection, chosen) if chosen else 0


def _inputs(connection: Connection, now: datetime, keep: Keep, limit: int) -> int:
    ended = select(Job.id).where(Job.state.in_(TERMINAL), Job.finished_at < _ago(now, keep.inputs_days))
    return _some(connection, JobInput.__table__, JobInput.job_id.in_(ended), limit)


def _stats(connection: Connection, now: datetime, keep: Keep, limit: int) -> int:
    old_minutes = and_(
        StatRollup.period_seconds < 3600,
        StatRollup.period_start < _ago(now, min(_MINUTES_KEPT_DAYS, keep.stats_days)),
    )
    old_hours = and_(StatRollup.period_seconds < DAY_SECONDS, StatRollup.period_start < _ago(now, keep.stats_days))
    return _some(connection, StatRollup.__table__, or_(old_minutes, old_hours), limit)


def _some(connection: Connection, table: Any, condition: Any, limit: int) -> int:
    """Delete at most `limit` rows for which a condition holds; neither dialect has a portable DELETE … LIMIT."""
    assert isinstance(table, Table)  # noqa: S101 - tells the type checker what a mapped class's table is
    key = list(table.primary_key.columns)
    chosen = select(*key).where(condition).limit(limit)
    return connection.execute(delete(table).where(tuple_(*key).in_(chosen))).rowcount
