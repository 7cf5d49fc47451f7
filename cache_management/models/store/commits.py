"""Write down what a run did, and say what has to be rung next. Inside the caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, update

from cache_management.models.job import Job, JobInput, JobItem, JobShard
from cache_management.models.store.claims import lease_until, mine, ring_of
from cache_management.models.store.lifecycle import FREED, behind, lock_job, record, settle, wake_follower
from cache_management.models.store.operations import upserting
from cache_management.models.store.results import (
    Claim,
    Committed,
    Counts,
    End,
    ItemOutcome,
    NewItem,
    NewShard,
    Ring,
)
from cache_management.models.store.submit import shard_row

_ROWS_AT_ONCE = 500


class Work(msgspec.Struct, frozen=True):
    """The arguments of one commit, as `JobStore.commit` documents them."""

    to_cursor: int
    counts: Counts
    outcomes: Sequence[ItemOutcome]
    end: End
    new_items: Sequence[NewItem]
    new_shards: Sequence[NewShard]
    total: int | None
    summary: Mapping[str, Any] | None
    bookmark: str | None = None
    new_inputs: Sequence[tuple[int, bytes, int]] = ()

    def touches_job(self, claim: Claim) -> bool:
        """Whether the job's row or its list of open shards may change: then nobody else may hold it."""
        return self.end == "shard" or claim.shard_kind == "plan" or self.total is not None or bool(self.summary)


def check(claim: Claim, work: Work) -> None:
    """Refuse a commit that contradicts itself, before anything is written.

    Raises:
        ValueError: The calling step has a bug.
    """
    counts, outcomes = work.counts, work.outcomes
    moves_bookmark = work.bookmark not in (None, claim.bookmark)
    holds_something = counts != Counts() or outcomes or work.new_items or work.new_inputs or moves_bookmark
    if work.end == "continue" and work.to_cursor == claim.cursor and holds_something:
        raise ValueError("a commit that goes on must move the cursor, or its repeat could not be told from it")
    if outcomes:
        if claim.shard_kind != "data":
            raise ValueError(f"a shard of kind {claim.shard_kind} settles no items")
        found = tuple(sum(outcome.state == state for outcome in outcomes) for state in ("done", "dead", "skipped"))
        if found != (counts.done, counts.failed, counts.skipped):
            raise ValueError(f"outcomes say {found} done, dead, skipped; counts say {counts}")
    if claim.shard_kind != "plan" and (work.new_items or work.new_shards or work.new_inputs):
        raise ValueError(f"a shard of kind {claim.shard_kind} plans nothing")
    if work.new_shards and work.end != "shard":
        raise ValueError("shards open with the plan's last commit, when all their items are known")


def apply(
    connection: Connection, job: Row[Any], claim: Claim, work: Work, read_now: Callable[[Connection], datetime]
) -> Committed | None:
    """Apply a commit whose job row the caller holds; None when the claim is lost."""
    end = work.end
    if claim.shard_kind == "embed" and not _may_end(connection, claim, work.to_cursor) and end == "shard":
        end = "chunk"
    now = read_now(connection)
    running = job.state == "running"
    if not _move_shard(connection, claim, work, end, now, running=running):
        return None
    _settle_items(connection, claim, work.outcomes)
    if work.new_inputs:
        connection.execute(
            insert(JobInput),
            [
                {"job_id": claim.job_id, "part": part, "payload": payload, "items": items}
                for part, payload, items in work.new_inputs
            ],
        )
    duplicates = _add_items(connection, claim, work.new_items)
    if work.touches_job(claim):
        _update_job(connection, job, claim, work, duplicates)
    rings = _insert_shards(connection, job, work.new_shards, now, running=running)
    if end == "shard":
        _check_settled(connection, claim)
    if running and end == "chunk":
        rings += _ring_again(connection, claim, now)
    if running and claim.shard_kind == "data":
        rings += wake_follower(connection, job, claim.shard, now)
    state = job.state
    if work.touches_job(claim) and (end == "shard" or not running):
        if end == "shard":
            record(connection, job.id, now, "shard done", shard=claim.shard)
        # Read again: the total may have changed above.
        state = settle(connection, lock_job(connection, job.id) or job, now, actor=claim.owner)
    return Committed(
        job_state=state,
        cursor=work.to_cursor,
        rings=rings,
        claim=_next_claim(claim, work) if running and end == "continue" else None,
    )


def _next_claim(claim: Claim, work: Work) -> Claim:
    bookmark = claim.bookmark if work.bookmark is None else work.bookmark
    return msgspec.structs.replace(claim, cursor=work.to_cursor, bookmark=bookmark)


def _may_end(connection: Connection, claim: Claim, to_cursor: int) -> bool:
    """Say whether an embed shard has seen all of its data shard, and keep that shard still meanwhile.

    Both look at each other before one of them goes to sleep. Without this lock
    each could see the other from before its commit, and nobody would ring.
    """
    data = connection.execute(
        select(JobShard.cursor, JobShard.state)
        .where(JobShard.job_id == claim.job_id, JobShard.shard == claim.follows)
        .with_for_update(read=True)
    ).one()
    return bool(data.state != "open" and data.cursor <= to_cursor)


def _move_shard(connection: Connection, claim: Claim, work: Work, end: End, now: datetime, *, running: bool) -> bool:
    counts = work.counts
    values: dict[str, Any] = {
        "cursor": work.to_cursor,
        "heartbeat_at": now,
        "done": JobShard.done + counts.done,
        "failed": JobShard.failed + counts.failed,
        "skipped": JobShard.skipped + counts.skipped,
        "bytes": JobShard.bytes + counts.bytes,
        "cost_micro": JobShard.cost_micro + counts.cost_micro,
    }
    if work.bookmark is not None:
        values["bookmark"] = work.bookmark
    if work.to_cursor != claim.cursor:
        values |= {"deliveries": 0, "single": False}
    if running and end == "continue":
        values["lease_until"] = lease_until(claim, now)
    else:
        # Handed back in good order: no delivery was lost on it, even if there was nothing to do.
        values |= {**FREED, "dispatched_at": None, "deliveries": 0}
    if end == "shard":
        values["state"] = "done"
    return connection.execute(update(JobShard).where(*mine(claim)).values(values)).rowcount == 1


def _settle_items(connection: Connection, claim: Claim, outcomes: Sequence[ItemOutcome]) -> None:
    alike: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
    for outcome in outcomes:
        alike[outcome.state, outcome.reason].append(outcome.position)
    for (state, reason), positions in alike.items():
        changed = connection.execute(
            update(JobItem)
            .where(
                JobItem.job_id == claim.job_id,
                JobItem.shard == claim.shard,
                JobItem.state == "pending",
                JobItem.position.in_(positions),
            )
            .values(state=state, reason=reason, attempts=JobItem.attempts + 1)
        ).rowcount
        if changed != len(positions):
            raise ValueError(f"only {changed} of {len(positions)} items of shard {claim.shard} were pending")


def _add_items(connection: Connection, claim: Claim, items: Sequence[NewItem]) -> int:
    """Insert what a plan found; count the keys that were there already."""
    unique: dict[str, NewItem] = {}
    for item in items:
        first = unique.get(item.item_key)
        unique[item.item_key] = (
            item if first is None else msgspec.structs.replace(first, part=item.part, part_index=item.part_index)
        )
    duplicates = len(items) - len(unique)
    rows = list(unique.values())
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = rows[start : start + _ROWS_AT_ONCE]
        # Asked first, which only the run that moved the plan's cursor gets to do:
        # no dialect tells portably which rows an upsert inserted.
        duplicates += connection.execute(
            select(func.count()).where(
                JobItem.job_id == claim.job_id, JobItem.item_key.in_([item.item_key for item in batch])
            )
        ).scalar_one()
        statement = upserting(connection, JobItem.__table__)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["job_id", "item_key"],
                set_={"part": statement.excluded.part, "part_index": statement.excluded.part_index},
            ),
            [{**msgspec.structs.asdict(item), "job_id": claim.job_id, "state": "pending"} for item in batch],
        )
    return duplicates


def _update_job(connection: Connection, job: Row[Any], claim: Claim, work: Work, duplicates: int) -> None:
    values: dict[str, Any] = {}
    if work.total is not None:
        values["total"] = work.total
    elif claim.shard_kind == "plan" and work.end == "shard" and job.total is None:
        counted = connection.execute(select(func.count()).where(JobItem.job_id == job.id)).scalar_one()
        # A shard without items counts as it goes; its total stays unknown.
        values["total"] = counted or None
    summary = {**job.summary, **(work.summary or {})}
    if duplicates:
        summary["duplicates"] = summary.get("duplicates", 0) + duplicates
    if summary != job.summary:
        values["summary"] = summary
    if values:
        connection.execute(update(Job).where(Job.id == job.id).values(**values))


def _insert_shards(
    connection: Connection, job: Row[Any], shards: Sequence[NewShard], now: datetime, *, running: bool
) -> list[Ring]:
    if not shards:
        return []
    # An embed shard is rung by the data shard it follows, once there is something to embed.
    rung = [shard.shard for shard in shards if shard.kind == "data" and running]
    connection.execute(
        insert(JobShard),
        [
            shard_row(
                job.id,
                shard.shard,
                shard.kind,
                follows=shard.follows,
                bookmark=shard.bookmark,
                dispatched_at=now if shard.shard in rung else None,
            )
            for shard in shards
        ],
    )
    return [Ring(job.id, number, 0, job.kind, "data", job.priority) for number in rung]


def _check_settled(connection: Connection, claim: Claim) -> None:
    if claim.shard_kind != "data":
        return
    left = connection.execute(
        select(func.count()).where(
            JobItem.job_id == claim.job_id, JobItem.shard == claim.shard, JobItem.state == "pending"
        )
    ).scalar_one()
    if left:
        raise ValueError(f"shard {claim.shard} cannot be done: {left} of its items are pending")


def _ring_again(connection: Connection, claim: Claim, now: datetime) -> list[Ring]:
    rung = connection.execute(
        update(JobShard)
        .where(
            JobShard.job_id == claim.job_id,
            JobShard.shard == claim.shard,
            JobShard.fence == claim.fence,
            behind(),
        )
        .values(dispatched_at=now)
    )
    if rung.rowcount != 1:
        return []
    return [ring_of(claim)]
