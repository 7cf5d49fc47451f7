"""Read jobs for people: nothing here changes a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from cache_management.cache.errors import JobError, JobNotFound
from cache_management.models.job import SCHEDULE_KEY, TERMINAL, Job, JobEvent, JobItem, JobShard
from cache_management.models.store.results import Event, Item, JobView, ShardView

_ITEM_COUNTERS = ("done", "skipped", "failed", "cancelled")
_EFFORT = ("bytes", "cost_micro")


def find_job(connection: Connection, job_id: str) -> Row[Any]:
    """Read a job by its id, or by the beginning of it that only one job has.

    Raises:
        JobNotFound: No job has this id.
        JobError: Several ids begin like this.
    """
    found = connection.execute(select(Job.__table__).where(Job.id == job_id)).one_or_none()
    if found is not None:
        return found
    query = select(Job.__table__).where(Job.id.startswith(job_id, autoescape=True)).limit(2)
    rows = connection.execute(query).all() if job_id else []
    if not rows:
        raise JobNotFound(job_id)
    if len(rows) > 1:
        raise JobError(f"more than one job id begins with {job_id!r}; give more of it")
    return rows[0]


def view(connection: Connection, job: Row[Any]) -> JobView:
    """Show one job."""
    return _views(connection, [job])[0]


def list_jobs(
    connection: Connection, *, state: str | None, kind: str | None, limit: int, scheduled: bool
) -> list[JobView]:
    """Show the newest jobs first."""
    query = select(Job.__table__).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if not scheduled:
        bad = Job.state.in_(("cancelled", "partial", "failed", "paused"))
        query = query.where(or_(Job.idem_key.is_(None), Job.idem_key.not_like(f"{SCHEDULE_KEY}%"), bad))
    return _views(connection, connection.execute(query).all())


def job_events(connection: Connection, job_id: str, after: int) -> list[Event]:
    """Read a job's timeline after an event's id."""
    rows = connection.execute(
        select(JobEvent.id, JobEvent.at, JobEvent.event, JobEvent.shard, JobEvent.detail)
        .where(JobEvent.job_id == job_id, JobEvent.id > after)
        .order_by(JobEvent.id)
    )
    return [Event(*row) for row in rows]


def items_where(connection: Connection, *conditions: Any, limit: int | None = None) -> list[Item]:
    """Read items in the order of their shards and positions."""
    query = select(
        JobItem.position,
        JobItem.item_key,
        JobItem.part,
        JobItem.part_index,
        JobItem.state,
        JobItem.attempts,
        JobItem.reason,
        JobItem.shard,
    ).where(*conditions)
    rows = connection.execute(query.order_by(JobItem.shard, JobItem.position).limit(limit))
    return [Item(**row._mapping) for row in rows]


def _views(connection: Connection, jobs: Sequence[Row[Any]]) -> list[JobView]:
    shards: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    query = select(JobShard.__table__).where(JobShard.job_id.in_([job.id for job in jobs]))
    for row in connection.execute(query.order_by(JobShard.job_id, JobShard.shard)):
        shards[row.job_id].append(row)
    return [_view(job, shards[job.id]) for job in jobs]


def _view(job: Row[Any], shards: list[Row[Any]]) -> JobView:
    fields = {name: getattr(job, name) for name in JobView.__struct_fields__ if hasattr(job, name)}
    items = [shard for shard in shards if shard.kind != "embed"]
    vectors = [shard for shard in shards if shard.kind == "embed"]
    if job.state not in TERMINAL:
        # The job's own counters are written when it ends; its shards know better until then.
        fields.update({name: sum(getattr(shard, name) for shard in items) for name in _ITEM_COUNTERS})
        fields.update({name: sum(getattr(shard, name) for shard in shards) for name in _EFFORT})
    embed_total = None
    if vectors and job.total is not None:
        embed_total = job.total - fields["failed"] - fields["cancelled"]
    fields.update(
        embedded=sum(shard.done for shard in vectors),
        embed_skipped=sum(shard.skipped for shard in vectors),
        embed_failed=sum(shard.failed for shard in vectors),
        embed_total=embed_total,
        shards=[ShardView(**{name: getattr(shard, name) for name in ShardView.__struct_fields__}) for shard in shards],
    )
    return JobView(**fields)
