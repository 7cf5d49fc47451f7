"""Count jobs and what they did, for metrics: totals that never go down, also when history is deleted."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, String, Subquery, case, cast, delete, func, literal, select, union_all

from cache_management.models.base import Clock, Database, read_clock
from cache_management.models.job import LIVE, TERMINAL, Job, JobShard
from cache_management.models.operations import StatRollup
from cache_management.models.store.operations import add_amounts
from cache_management.models.usage import DAY_SECONDS

_ITEMS = ("done", "skipped", "failed", "cancelled")
_EFFORT = ("bytes", "cost_micro")
_COUNTED = ("jobs", *_ITEMS, *_EFFORT)
# The day that pruned jobs are counted on: days of statistics are kept for ever, and nobody asks for this one.
_PRUNED_DAY = datetime(1970, 1, 1, tzinfo=UTC)
_PRUNED = "pruned"


class JobTally(msgspec.Struct, frozen=True):
    """How many jobs of one kind are in one state, and what they did so far; items leave vectors out."""

    kind: str
    state: str
    jobs: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    cancelled: int = 0
    bytes: int = 0
    cost_micro: int = 0


class Census(msgspec.Struct, frozen=True):
    """Jobs at one moment.

    `kept` are those in the database, `pruned` those that were; together they only grow. `running` and `expired`
    count, by kind, the shards whose lease holds and is over; `oldest` tells, by kind, the age in seconds of the
    oldest job that has not ended.
    """

    kept: list[JobTally]
    pruned: list[JobTally]
    running: dict[str, int]
    expired: dict[str, int]
    oldest: dict[str, float]


class CensusStore:
    """What an exporter of metrics asks of the database."""

    def __init__(self, database: Database, *, clock: Clock = read_clock) -> None:
        self._database, self._clock = database, clock

    def take(self) -> Census:
        """Count.

        Raises:
            MetadataUnavailable: The database does not answer.
        """
        with self._database.read() as connection:
            now = self._clock(connection)
            kept, pruned = _tallies(connection)
            leases = connection.execute(
                select(Job.kind, (JobShard.lease_until < now).label("over"), func.count())
                .join(Job, Job.id == JobShard.job_id)
                .where(JobShard.lease_until.is_not(None), JobShard.state == "open")
                .group_by(Job.kind, "over")
            ).all()
            begun = connection.execute(
                select(Job.kind, func.min(Job.created_at)).where(Job.state.in_(LIVE)).group_by(Job.kind)
            ).all()
        return Census(
            kept=kept,
            pruned=pruned,
            running={kind: count for kind, over, count in leases if not over},
            expired={kind: count for kind, over, count in leases if over},
            oldest={kind: max(0.0, (now - first).total_seconds()) for kind, first in begun},
        )


def delete_jobs(connection: Connection, chosen: Any) -> int:
    """Delete ended jobs and all that is theirs, and keep their numbers in the totals; return how many went.

    Args:
        chosen: Their ids, or a query for them.
    """
    columns = [getattr(Job, name) for name in ("kind", "state", *_ITEMS, *_EFFORT)]
    # Counted as they go, not before: another run may delete the same ones.
    gone = connection.execute(delete(Job).where(Job.id.in_(chosen)).returning(*columns)).all()
    sums: Counter[str] = Counter()
    for job in gone:
        for name in _COUNTED:
            sums[f"{_PRUNED}:{job.kind}:{job.state}:{name}"] += 1 if name == "jobs" else getattr(job, name)
    add_amounts(connection, {(_PRUNED_DAY, "", ""): +sums}, periods_seconds=[DAY_SECONDS])
    return len(gone)


def _tallies(connection: Connection) -> tuple[list[JobTally], list[JobTally]]:
    """Read all counters by one statement: two could see a job before and after its end, and count it twice or never."""
    nothing = cast(literal(None), String)
    whole = [cast(func.coalesce(func.sum(getattr(Job, name)), 0), BigInteger) for name in (*_ITEMS, *_EFFORT)]
    ended = (
        select(Job.kind, Job.state, func.count(), *whole, nothing)
        .where(Job.state.in_(TERMINAL))
        .group_by(Job.kind, Job.state)
    )
    shards = _by_job()
    # A job's own counters are written when it ends; its shards know better until then.
    so_far = [cast(func.coalesce(func.sum(shards.c[name]), 0), BigInteger) for name in (*_ITEMS, *_EFFORT)]
    live = (
        select(Job.kind, Job.state, func.count(), *so_far, nothing)
        .outerjoin(shards, shards.c.job_id == Job.id)
        .where(Job.state.in_(LIVE))
        .group_by(Job.kind, Job.state)
    )
    gone = select(
        literal(_PRUNED),
        literal(_PRUNED),
        cast(StatRollup.value, BigInteger),
        *(literal(0) for _ in (*_ITEMS, *_EFFORT)),
        StatRollup.name,
    ).where(StatRollup.period_start == _PRUNED_DAY, StatRollup.period_seconds == DAY_SECONDS)
    kept = []
    pruned: dict[tuple[str, str], dict[str, int]] = {}
    for kind, state, jobs, *counts, name in connection.execute(union_all(ended, live, gone)):
        if name is None:
            numbers = dict(zip((*_ITEMS, *_EFFORT), map(int, counts), strict=True))
            kept.append(JobTally(kind, state, jobs, **numbers))
        elif name.startswith(f"{_PRUNED}:"):
            _, its_kind, its_state, counter = name.split(":")
            pruned.setdefault((its_kind, its_state), {})[counter] = int(jobs)
    return kept, [JobTally(kind, state, **counts) for (kind, state), counts in pruned.items()]


def _by_job() -> Subquery:
    def total_of(name: str) -> Any:
        column = getattr(JobShard, name)
        counted = column if name in _EFFORT else case((JobShard.kind != "embed", column), else_=0)
        return func.sum(counted).label(name)

    columns = [total_of(name) for name in (*_ITEMS, *_EFFORT)]
    open_jobs = select(Job.id).where(Job.state.in_(LIVE))
    return select(JobShard.job_id, *columns).where(JobShard.job_id.in_(open_jobs)).group_by(JobShard.job_id).subquery()
