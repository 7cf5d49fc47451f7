"""Find what stands still and ring for it again: rules (a) to (d) of the job protocol.

Any number may run at once. Each change is conditional on what was read, and only
the one whose UPDATE took hold publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, or_, select, update

from cache_management.models.job import RUNNABLE, Job, JobItem, JobShard
from cache_management.models.store.lifecycle import (
    FREED,
    MAX_DELIVERIES,
    behind,
    close_shard,
    later,
    lock_job,
    record,
    set_state,
    settle,
)
from cache_management.models.store.results import Ring

ACTOR = "reconciler"
QueueOf = Callable[[str, str], str]


def queue_of(job_kind: str, shard_kind: str) -> str:
    """Name the queue of a shard: `embed` for vectors, else the first word of the job's kind."""
    return "embed" if shard_kind == "embed" else job_kind.partition(".")[0]


def reconcile_job(
    connection: Connection,
    job: Row[Any],
    now: datetime,
    *,
    oldest_sent_at: Mapping[str, datetime],
    redispatch_after_seconds: float,
    queue: QueueOf,
) -> list[Ring]:
    """Do one pass over one live job, whose row the caller holds."""
    if job.deadline <= now and job.state != "cancelling":
        moved = set_state(
            connection, job, "cancelling", now, actor=ACTOR, detail={"reason": "deadline"}, cancel_reason="deadline"
        )
        if moved:
            job = lock_job(connection, job.id) or job
    rings: list[Ring] = []
    if job.state in RUNNABLE:
        for shard in _open_shards(connection, job):
            if shard.deliveries >= MAX_DELIVERIES and (shard.lease_until is None or shard.lease_until < now):
                _cap_deliveries(connection, shard, now)
                job = lock_job(connection, job.id) or job
        for shard in _open_shards(connection, job):
            if shard.lease_owner is not None and shard.lease_until < now:
                rings += _free_expired(connection, job, shard, now)
        for shard in _open_shards(connection, job):
            sent = oldest_sent_at.get(queue(job.kind, shard.kind), now)
            rings += _redispatch(
                connection, job, shard, now, sent=min(now, sent), after_seconds=redispatch_after_seconds
            )
    settle(connection, job, now, actor=ACTOR)
    return rings


def _open_shards(connection: Connection, job: Row[Any]) -> list[Row[Any]]:
    query = select(JobShard.__table__).where(JobShard.job_id == job.id, JobShard.state == "open")
    return list(connection.execute(query.order_by(JobShard.shard)))


def _unchanged(shard: Row[Any], now: datetime) -> list[ColumnElement[bool]]:
    """Match the row only as it was read, and without a live lease."""
    return [
        JobShard.job_id == shard.job_id,
        JobShard.shard == shard.shard,
        JobShard.state == "open",
        JobShard.fence == shard.fence,
        JobShard.dispatched_at.is_not_distinct_from(shard.dispatched_at),
        or_(JobShard.lease_owner.is_(None), JobShard.lease_until < now),
    ]


def _cap_deliveries(connection: Connection, shard: Row[Any], now: datetime) -> None:
    """Rule (d): a shard that used up its deliveries goes one item at a time, then past the item that kills."""
    again: dict[str, Any] = {**FREED, "fence": JobShard.fence + 1, "deliveries": 0, "dispatched_at": None}
    unchanged = _unchanged(shard, now)
    if not shard.single:
        changed = connection.execute(update(JobShard).where(*unchanged).values(**again, single=True))
        if changed.rowcount == 1:
            record(connection, shard.job_id, now, "shard goes one by one", shard=shard.shard)
        return
    # Cleared by each claim: what is there was written by the last run, and one that died wrote nothing.
    reason = f"{shard.reason} in the last of {MAX_DELIVERIES} tries" if shard.reason else "worker lost"
    position = _item_at_cursor(connection, shard)
    if position is None:
        close_shard(connection, shard, "failed", now, reason=reason, where=unchanged)
        return
    moved = connection.execute(
        update(JobShard).where(*unchanged).values(**again, cursor=position, failed=JobShard.failed + 1)
    )
    if moved.rowcount != 1:
        return
    if shard.kind == "data":
        connection.execute(
            update(JobItem)
            .where(JobItem.job_id == shard.job_id, JobItem.shard == shard.shard, JobItem.position == position)
            .values(state="dead", reason=reason, attempts=JobItem.attempts + 1)
        )
    connection.execute(update(Job).where(Job.id == shard.job_id).values(last_error=reason))
    detail = {"position": position, "reason": reason}
    record(connection, shard.job_id, now, "item dead", shard=shard.shard, detail=detail)


def _item_at_cursor(connection: Connection, shard: Row[Any]) -> int | None:
    """Find the item that a single-step run would have taken; None for shards without items."""
    if shard.kind == "plan":
        return None
    query = select(func.min(JobItem.position)).where(JobItem.job_id == shard.job_id, JobItem.position > shard.cursor)
    if shard.kind == "embed":
        reached = select(JobShard.cursor).where(JobShard.job_id == shard.job_id, JobShard.shard == shard.follows)
        query = query.where(
            JobItem.shard == shard.follows,
            JobItem.state.in_(("done", "skipped")),
            JobItem.position <= reached.scalar_subquery(),
        )
    else:
        query = query.where(JobItem.shard == shard.shard, JobItem.state == "pending")
    return connection.execute(query).scalar_one()


def _free_expired(connection: Connection, job: Row[Any], shard: Row[Any], now: datetime) -> list[Ring]:
    """Rule (b): a run that went silent loses its claim, and the shard is rung once under the new fence."""
    freed = connection.execute(
        update(JobShard)
        .where(*_unchanged(shard, now), JobShard.lease_until < now)
        .values(**FREED, fence=JobShard.fence + 1, dispatched_at=now)
    )
    if freed.rowcount != 1:
        return []
    record(connection, job.id, now, "lease expired", shard=shard.shard, detail={"owner": shard.lease_owner})
    return [Ring(job.id, shard.shard, shard.fence + 1, job.kind, shard.kind, job.priority)]


def _redispatch(
    connection: Connection, job: Row[Any], shard: Row[Any], now: datetime, *, sent: datetime, after_seconds: float
) -> list[Ring]:
    """Rule (a): a free shard whose doorbell was never sent, or must be lost by now.

    Behind a backlog the doorbell may simply not have been heard yet: then the
    oldest message that still waits says how late is late.
    """
    if shard.lease_owner is not None or (shard.not_before is not None and shard.not_before > now):
        return []
    if shard.dispatched_at is not None:
        heard = max(shard.not_before, sent) if shard.not_before is not None else sent
        if shard.dispatched_at >= later(heard, -after_seconds):
            return []
    rung = connection.execute(
        update(JobShard)
        .where(*_unchanged(shard, now), JobShard.lease_owner.is_(None), behind())
        .values(dispatched_at=now)
        .execution_options(synchronize_session=False)
    )
    if rung.rowcount != 1:
        return []
    return [Ring(job.id, shard.shard, shard.fence, job.kind, shard.kind, job.priority)]
