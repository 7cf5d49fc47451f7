"""Write a new job: itself, its plan shard, its inputs and its audit row, all or nothing."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import count, islice
from typing import Any

from sqlalchemy import Connection, insert, select

from cache_management.cache.errors import JobError
from cache_management.models.job import LIVE, ROUTINE_KINDS, Job, JobInput, JobShard
from cache_management.models.store import audit
from cache_management.models.store.lifecycle import later, record
from cache_management.models.store.operations import upserting
from cache_management.models.store.results import Ring, Submitted

PLAN_SHARD = 0
# Bounds what is held in memory while a lazy iterable is written.
_PARTS_AT_ONCE = 20


def new_job_id(now: datetime) -> str:
    """Make a UUIDv7: ids sort by the time of their submit."""
    milliseconds = int(now.timestamp() * 1000)
    value = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def insert_job(
    connection: Connection,
    now: datetime,
    *,
    kind: str,
    params: Mapping[str, Any],
    namespace: str,
    submitted_by: str,
    inputs: Iterable[tuple[bytes, int]],
    idem_key: str | None,
    priority: int,
    deadline_seconds: float,
    retry_of: str | None,
    total: int | None,
) -> Submitted:
    """Insert a job, or find the live one that has its key."""
    job_id = new_job_id(now)
    row: dict[str, Any] = {
        "id": job_id,
        "kind": kind,
        "namespace": namespace,
        "state": "queued",
        "priority": priority,
        "idem_key": idem_key,
        "retry_of": retry_of,
        "params": dict(params),
        "params_sha": audit.digest(dict(params)),
        "schema_version": 1,
        "summary": {},
        "submitted_by": submitted_by,
        "total": total,
        "created_at": now,
        "deadline": later(now, deadline_seconds),
    }
    live = select(Job.id).where(
        Job.namespace == namespace, Job.kind == kind, Job.idem_key == idem_key, Job.state.in_(LIVE)
    )
    for _ in range(3):
        # Returned, not counted: for an INSERT a driver may not say how many rows there were.
        statement = upserting(connection, Job.__table__).values(**row).on_conflict_do_nothing().returning(Job.id)
        if connection.execute(statement).one_or_none() is not None:
            break
        existing = connection.execute(live).scalar_one_or_none()
        if existing is not None:
            return Submitted(existing, created=False, ring=None)
        # The live job ended between our two statements: its key is free again.
    else:
        raise JobError(f"jobs with the key {idem_key!r} come and go too fast; submit again")
    connection.execute(insert(JobShard), shard_row(job_id, PLAN_SHARD, "plan"))
    numbers = count()
    for parts in _batches(inputs, _PARTS_AT_ONCE):
        connection.execute(
            insert(JobInput),
            [{"job_id": job_id, "part": next(numbers), "payload": payload, "items": items} for payload, items in parts],
        )
    record(connection, job_id, now, "queued")
    if kind not in ROUTINE_KINDS:
        audit.append(
            connection, now, actor=submitted_by, action="job.submit", job_id=job_id, args_digest=row["params_sha"]
        )
    return Submitted(job_id, created=True, ring=Ring(job_id, PLAN_SHARD, 0, kind, "plan", priority))


def shard_row(
    job_id: str,
    shard: int,
    kind: str,
    *,
    follows: int | None = None,
    bookmark: str | None = None,
    dispatched_at: datetime | None = None,
) -> dict[str, Any]:
    """Write out a new open shard."""
    return {
        "job_id": job_id,
        "shard": shard,
        "kind": kind,
        "follows": follows,
        "bookmark": bookmark,
        "state": "open",
        "dispatched_at": dispatched_at,
    }


def _batches(inputs: Iterable[tuple[bytes, int]], size: int) -> Iterator[list[tuple[bytes, int]]]:
    iterator = iter(inputs)
    while batch := list(islice(iterator, size)):
        yield batch
