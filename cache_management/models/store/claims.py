"""Take a shard, keep it, give it back. Every function works inside the caller's transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, or_, select, text, update

from cache_management.models.job import LIVE, RUNNABLE, Job, JobShard, JobState
from cache_management.models.store.lifecycle import FREED, MAX_DELIVERIES, later, lock_job, set_state
from cache_management.models.store.results import Claim, Refused, Ring

Released = tuple[JobState, Ring | None]

TAKEOVER_AFTER_SECONDS = 10.0
HARD_LIMIT_GRACE_SECONDS = 10.0
BUSY_AGAIN_SECONDS = 2.0


def mine(claim: Claim) -> list[ColumnElement[bool]]:
    """Match the claim's shard while the claim holds and nothing was committed since it was made.

    The fence alone is not enough: when the reply to a COMMIT is lost the fence is
    still ours, and the repeat would count the same items again.
    """
    return [*held(claim), JobShard.cursor == claim.cursor]


def held(claim: Claim) -> list[ColumnElement[bool]]:
    """Match the claim's shard while the claim holds."""
    return [
        JobShard.job_id == claim.job_id,
        JobShard.shard == claim.shard,
        JobShard.state == "open",
        JobShard.fence == claim.fence,
        JobShard.lease_owner == claim.owner,
        JobShard.lease_task == claim.task_id,
    ]


def ring_of(claim: Claim) -> Ring:
    """Return the doorbell of a claim's shard under the fence it holds."""
    return Ring(claim.job_id, claim.shard, claim.fence, claim.job_kind, claim.shard_kind, claim.priority)


def last_moment(claim: Claim) -> datetime:
    """Say when a claim ends at the latest: else the timer of a hung run blocks its shard for ever."""
    return claim.claimed_at + timedelta(seconds=claim.hard_limit_seconds + HARD_LIMIT_GRACE_SECONDS)


def lease_until(claim: Claim, now: datetime) -> datetime:
    """Say how long a lease that is renewed now holds."""
    return min(later(now, claim.lease_seconds), last_moment(claim))


def take(
    connection: Connection,
    job: Row[Any],
    shard: int,
    fence: int,
    now: datetime,
    *,
    owner: str,
    task_id: str,
    lease_seconds: float,
    hard_limit_seconds: float,
    namespace_limit: int | None = None,
) -> Claim | Refused:
    """Claim a shard in one UPDATE, and move its job to `running`."""
    first = and_(JobShard.fence == fence, or_(JobShard.lease_owner.is_(None), JobShard.lease_until < now))
    # A redelivered message carries the fence that its own first run used up. Its
    # task id tells it from strangers; a silent heartbeat, that the first run is gone.
    takeover = and_(
        JobShard.lease_task == task_id,
        JobShard.lease_owner.is_not(None),
        JobShard.heartbeat_at < later(now, -TAKEOVER_AFTER_SECONDS),
    )
    free = [
        JobShard.job_id == job.id,
        JobShard.shard == shard,
        JobShard.state == "open",
        JobShard.deliveries < MAX_DELIVERIES,
        or_(JobShard.not_before.is_(None), JobShard.not_before <= now),
        select(Job.state).where(Job.id == job.id).scalar_subquery().in_(RUNNABLE),
        or_(first, takeover),
    ]
    if (
        namespace_limit is not None
        # A message that would be refused for good must not be sent again and again until there is room.
        and connection.execute(select(JobShard.shard).where(*free)).one_or_none() is not None
        and _is_busy(connection, job, shard, now, namespace_limit)
    ):
        # Not late: the message that will be sent again is on its way until then.
        connection.execute(
            update(JobShard)
            .where(*free, JobShard.lease_owner.is_(None))
            .values(dispatched_at=later(now, BUSY_AGAIN_SECONDS))
            .execution_options(synchronize_session=False)
        )
        return Refused(f"namespace {job.namespace} is busy", retry_in=BUSY_AGAIN_SECONDS)
    claimed = connection.execute(
        update(JobShard)
        .where(*free)
        .values(
            fence=JobShard.fence + 1,
            lease_owner=owner,
            lease_task=task_id,
            lease_until=later(now, min(lease_seconds, hard_limit_seconds + HARD_LIMIT_GRACE_SECONDS)),
            claimed_at=now,
            heartbeat_at=now,
            not_before=None,
            reason=None,
            deliveries=JobShard.deliveries + 1,
        )
        .returning(JobShard.fence, JobShard.cursor, JobShard.bookmark, JobShard.single, JobShard.kind, JobShard.follows)
    ).one_or_none()
    if claimed is None:
        return _refusal(connection, job, shard, task_id, now)
    columns: dict[str, Any] = {} if job.started_at else {"started_at": now}
    if job.state != "running":
        set_state(connection, job, "running", now, **columns)
    elif columns:
        connection.execute(update(Job).where(Job.id == job.id).values(**columns))
    return Claim(
        job_id=job.id,
        shard=shard,
        fence=claimed.fence,
        # As the UPDATE returned it: another run may have committed since anything read before.
        cursor=claimed.cursor,
        bookmark=claimed.bookmark,
        single=claimed.single,
        shard_kind=claimed.kind,
        follows=claimed.follows,
        job_kind=job.kind,
        namespace=job.namespace,
        params=job.params,
        owner=owner,
        task_id=task_id,
        claimed_at=now,
        lease_seconds=lease_seconds,
        hard_limit_seconds=hard_limit_seconds,
        priority=job.priority,
    )


def _is_busy(connection: Connection, job: Row[Any], shard: int, now: datetime, limit: int) -> bool:
    """Tell whether others of this namespace hold as many shards as it may have at once."""
    if not job.namespace:
        return False  # what belongs to no namespace takes nothing from one
    if connection.dialect.name == "postgresql":
        # Two that count at the same time would both find room. SQLite's writers are one at a time already.
        name = f"cache_management/{job.namespace}"
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
    held = connection.execute(
        select(func.count())
        .select_from(JobShard)
        .join(Job, Job.id == JobShard.job_id)
        .where(
            Job.namespace == job.namespace,
            Job.state.in_(LIVE),
            JobShard.lease_until >= now,
            or_(JobShard.job_id != job.id, JobShard.shard != shard),
        )
    ).scalar_one()
    return held >= limit


def _refusal(connection: Connection, job: Row[Any], shard: int, task_id: str, now: datetime) -> Refused:
    if job.state not in RUNNABLE:
        return Refused(f"job is {job.state}")
    row = connection.execute(
        select(JobShard.__table__).where(JobShard.job_id == job.id, JobShard.shard == shard)
    ).one_or_none()
    if row is None:
        return Refused("no such shard")
    if row.state != "open":
        return Refused(f"shard is {row.state}")
    if row.deliveries >= MAX_DELIVERIES:
        return Refused("deliveries used up")
    if row.not_before is not None and row.not_before > now:
        return Refused("too early")
    if row.lease_owner is not None and row.lease_task == task_id:
        # Its own first run may be dead or alive; when it is dead, ten seconds show it.
        return Refused("own first run may still work", retry_in=TAKEOVER_AFTER_SECONDS)
    return Refused("stale")


def renew(connection: Connection, claim: Claim, now: datetime) -> bool:
    """Prolong a lease up to the hard limit."""
    if now >= last_moment(claim):
        return False
    renewed = connection.execute(
        update(JobShard).where(*held(claim)).values(lease_until=lease_until(claim, now), heartbeat_at=now)
    )
    return renewed.rowcount == 1


def release(
    connection: Connection, claim: Claim, now: datetime, *, retry_in: float, blame: bool, reason: str | None
) -> Released | None:
    """Free a lease for a while; give the job's state and what to publish, or None when the claim is lost.

    Any claim of this chunk will do, also one from before a commit.
    """
    job = lock_job(connection, claim.job_id, shared=True)
    if job is None:
        return None
    running = job.state == "running"
    again = later(now, retry_in)
    # The doorbell is due then, and late only some time after that.
    if not give_back(
        connection, claim, reason, blame=blame, not_before=again, dispatched_at=again if running else None
    ):
        return None
    ring = ring_of(claim) if running else None
    return job.state, ring


def give_back(connection: Connection, claim: Claim, reason: str | None, *, blame: bool, **columns: Any) -> bool:
    """Free a claim's lease and say why; False when the claim is lost."""
    # Given back, unless the work itself failed: an outage must not look like a poison item.
    deliveries = JobShard.deliveries if blame else case((JobShard.deliveries > 0, JobShard.deliveries - 1), else_=0)
    freed = connection.execute(
        update(JobShard).where(*held(claim)).values(**FREED, reason=reason, deliveries=deliveries, **columns)
    )
    return freed.rowcount == 1
