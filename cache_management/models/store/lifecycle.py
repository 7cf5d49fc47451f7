"""How jobs and shards change state. Every function works inside the caller's transaction.

Locks are taken in one order, or two transactions wait for each other: the job's
row, then a data shard, then the embed shard that follows it, the audit chain last.
Whatever changes a job's row or state holds that row for itself; commits that only
move a shard share it. SQLite has one writer at a time and needs none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, delete, func, insert, or_, select, update

from cache_management.models.job import (
    LIVE,
    ROUTINE_KINDS,
    Job,
    JobEvent,
    JobInput,
    JobItem,
    JobShard,
    JobState,
    ShardState,
)
from cache_management.models.store import audit
from cache_management.models.store.results import Ring

MAX_DELIVERIES = 3
NOT_DONE = ("dead", "cancelled")

FREED: dict[str, Any] = {"lease_owner": None, "lease_task": None, "lease_until": None}


def lock_job(
    connection: Connection, job_id: str, *, shared: bool = False, skip_locked: bool = False
) -> Row[Any] | None:
    """Lock and read a job's row; None when there is none (or, with `skip_locked`, when another holds it)."""
    query = select(Job.__table__).where(Job.id == job_id)
    # Not a plain FOR UPDATE: that would also stop inserts that refer to the job.
    query = query.with_for_update(read=shared, key_share=not shared, skip_locked=skip_locked)
    return connection.execute(query).one_or_none()


def record(
    connection: Connection,
    job_id: str,
    now: datetime,
    event: str,
    *,
    shard: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add a line to the job's timeline. The caller holds the job's row, so that lines keep their order."""
    connection.execute(
        insert(JobEvent),
        {"job_id": job_id, "at": now, "event": event, "shard": shard, "detail": detail or {}},
    )


def set_state(
    connection: Connection,
    job: Row[Any],
    state: JobState,
    now: datetime,
    *,
    actor: str | None = None,
    detail: dict[str, Any] | None = None,
    **columns: Any,
) -> bool:
    """Move a job from the state it was read in; audited when there is an actor.

    False when it is no longer in that state: then nothing was changed.
    """
    changed = connection.execute(
        update(Job).where(Job.id == job.id, Job.state == job.state).values(state=state, **columns)
    )
    if changed.rowcount != 1:
        return False
    record(connection, job.id, now, state, detail=detail)
    failed = state in ("failed", "partial")
    if actor is not None and (failed or job.kind not in ROUTINE_KINDS):
        audit.append(
            connection,
            now,
            actor=actor,
            action=f"job.{state}",
            job_id=job.id,
            outcome="failed" if failed else "ok",
        )
    return True


def behind() -> ColumnElement[bool]:
    """Say, of a shard's row, whether it has work: an embed shard has none while its data shard is not ahead."""
    data = JobShard.__table__.alias("followed")
    ahead = (
        select(data.c.shard)
        .where(
            data.c.job_id == JobShard.job_id,
            data.c.shard == JobShard.follows,
            # A closed data shard is work too: somebody has to close its follower.
            or_(data.c.cursor > JobShard.cursor, data.c.state != "open"),
        )
        .exists()
    )
    return or_(JobShard.kind != "embed", ahead)


def wake_follower(connection: Connection, job: Row[Any], shard: int, now: datetime) -> list[Ring]:
    """Ring for the embed shard behind a data shard, unless it runs or was rung already.

    A follower that waits has no `dispatched_at`: that is how the data shard
    knows that nobody else will wake it.
    """
    rung = connection.execute(
        update(JobShard)
        .where(
            JobShard.job_id == job.id,
            JobShard.follows == shard,
            JobShard.state == "open",
            JobShard.lease_owner.is_(None),
            JobShard.dispatched_at.is_(None),
            or_(JobShard.not_before.is_(None), JobShard.not_before <= now),
            behind(),
        )
        .values(dispatched_at=now)
        .returning(JobShard.shard, JobShard.fence)
        .execution_options(synchronize_session=False)
    )
    return [Ring(job.id, row.shard, row.fence, job.kind, "embed", job.priority) for row in rung]


def close_shard(
    connection: Connection,
    shard: Row[Any],
    state: ShardState,
    now: datetime,
    *,
    reason: str,
    where: Sequence[ColumnElement[bool]] = (),
) -> bool:
    """Close a shard as failed or cancelled, and with it the items it leaves.

    The fence moves on, so that a run which still believes in its claim finds out.
    """
    closed = connection.execute(
        update(JobShard)
        .where(JobShard.job_id == shard.job_id, JobShard.shard == shard.shard, JobShard.state == "open", *where)
        .values(**FREED, state=state, reason=reason, fence=JobShard.fence + 1, dispatched_at=None)
    )
    if closed.rowcount != 1:
        return False
    if shard.kind != "embed":
        left = [JobItem.job_id == shard.job_id, JobItem.state == "pending"]
        if shard.kind == "data":
            # A plan that ends early leaves items of shards that will never be.
            left.append(JobItem.shard == shard.shard)
        items = connection.execute(
            update(JobItem).where(*left).values(state="cancelled" if state == "cancelled" else "dead", reason=reason)
        ).rowcount
        counter = JobShard.cancelled if state == "cancelled" else JobShard.failed
        connection.execute(
            update(JobShard)
            .where(JobShard.job_id == shard.job_id, JobShard.shard == shard.shard)
            .values({counter: counter + items})
        )
    record(connection, shard.job_id, now, f"shard {state}", shard=shard.shard, detail={"reason": reason})
    return True


def settle(connection: Connection, job: Row[Any], now: datetime, *, actor: str) -> JobState:
    """Take a job as far as its shards allow: to `paused`, or to its end. The caller holds its row.

    Returns:
        The job's state afterwards.
    """
    if job.state not in LIVE:
        return _state(job)
    mine = JobShard.job_id == job.id
    if job.state in ("pausing", "cancelling"):
        # An expired lease would hold this up until somebody claims the shard, which nobody may.
        connection.execute(
            update(JobShard)
            .where(mine, JobShard.state == "open", JobShard.lease_until < now)
            .values(**FREED, fence=JobShard.fence + 1, dispatched_at=None)
        )
    if job.state == "cancelling":
        reason = "deadline passed" if job.cancel_reason == "deadline" else "job cancelled"
        free = connection.execute(
            select(JobShard.__table__).where(mine, JobShard.state == "open", JobShard.lease_owner.is_(None))
        ).all()
        for shard in free:
            close_shard(connection, shard, "cancelled", now, reason=reason, where=[JobShard.lease_owner.is_(None)])
    open_shards, leased = connection.execute(
        select(func.count(), func.count(JobShard.lease_owner)).where(mine, JobShard.state == "open")
    ).one()
    if open_shards == 0:
        return _finish(connection, job, now, actor=actor)
    if job.state == "pausing" and leased == 0 and set_state(connection, job, "paused", now, actor=actor):
        return "paused"
    return _state(job)


def _state(job: Row[Any]) -> JobState:
    state: JobState = job.state
    return state


def _finish(connection: Connection, job: Row[Any], now: datetime, *, actor: str) -> JobState:
    def total_of(column: Any) -> Any:
        return func.coalesce(func.sum(case((JobShard.kind != "embed", column), else_=0)), 0)

    def shards_where(*conditions: ColumnElement[bool]) -> Any:
        return func.coalesce(func.sum(case((and_(*conditions), 1), else_=0)), 0)

    sums = connection.execute(
        select(
            total_of(JobShard.done).label("done"),
            total_of(JobShard.skipped).label("skipped"),
            total_of(JobShard.failed).label("failed"),
            total_of(JobShard.cancelled).label("cancelled"),
            func.coalesce(func.sum(JobShard.bytes), 0).label("bytes"),
            func.coalesce(func.sum(JobShard.cost_micro), 0).label("cost_micro"),
            shards_where(JobShard.state == "failed").label("failed_shards"),
            shards_where(JobShard.state == "cancelled").label("cancelled_shards"),
            shards_where(JobShard.state == "done", JobShard.kind == "data").label("done_shards"),
            shards_where(JobShard.kind == "embed", JobShard.failed > 0).label("unembedded"),
            func.max(case((JobShard.state == "failed", JobShard.reason))).label("reason"),
        ).where(JobShard.job_id == job.id)
    ).one()
    nothing_done = sums.done + sums.skipped == 0 and (sums.failed > 0 or sums.done_shards == 0)
    state: JobState
    error = job.last_error or sums.reason
    if job.state == "cancelling" and sums.cancelled_shards:
        state = "failed" if job.cancel_reason == "deadline" else "cancelled"
        if job.cancel_reason == "deadline":
            error = "deadline passed"
    elif not sums.failed and not sums.failed_shards and not sums.unembedded:
        state = "succeeded"
    else:
        state = "failed" if nothing_done else "partial"
    if error is None and state in ("partial", "failed"):
        error = _why_items_failed(connection, job.id)
    columns: dict[str, Any] = {
        name: int(getattr(sums, name)) for name in ("done", "skipped", "failed", "cancelled", "bytes", "cost_micro")
    }
    if job.total is None:
        counted = connection.execute(select(func.count()).where(JobItem.job_id == job.id)).scalar_one()
        columns["total"] = counted or None
    ended = set_state(
        connection,
        job,
        state,
        now,
        actor=actor,
        detail={key: columns[key] for key in ("done", "skipped", "failed", "cancelled")},
        finished_at=now,
        last_error=error,
        **columns,
    )
    if not ended:
        return _state(job)
    _forget_inputs(connection, job.id)
    return state


def _why_items_failed(connection: Connection, job_id: str) -> str | None:
    """Return how many items failed and why most of them did; None when none did."""
    dead = (JobItem.job_id == job_id, JobItem.state == "dead")
    number = func.count()
    rows = connection.execute(
        select(JobItem.reason, number).where(*dead).group_by(JobItem.reason).order_by(number.desc(), JobItem.reason)
    ).all()
    if not rows:
        return None
    reason, most = rows[0]
    failed = sum(count for _, count in rows)
    return f"{failed} items failed: {reason}" if most == failed else f"{failed} items failed, {most} of them: {reason}"


def _forget_inputs(connection: Connection, job_id: str) -> None:
    """Delete every prompt and answer of a job that ended, but for what a retry would need.

    Nobody else reads them again: a late doorbell is turned away.
    """
    planned = select(JobShard.state).where(JobShard.job_id == job_id, JobShard.kind == "plan")
    gone = [JobInput.job_id == job_id]
    # A plan that did not come to its end knows no items of the parts behind.
    if connection.execute(planned).scalar_one_or_none() == "done":
        left = select(JobItem.part).where(JobItem.job_id == job_id, JobItem.state.in_(NOT_DONE))
        gone.append(JobInput.part.not_in(left))
    else:
        return
    connection.execute(delete(JobInput).where(*gone))


def later(now: datetime, seconds: float) -> datetime:
    """Add seconds to a moment."""
    return now + timedelta(seconds=seconds)
