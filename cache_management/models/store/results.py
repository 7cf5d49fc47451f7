"""What the stores take and give back: plain frozen values, safe to keep and to print."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from cache_management.models.job import PRIORITY, ItemState, JobState, ShardKind, ShardState

Action = Literal["cancel", "pause", "resume"]
End = Literal["continue", "chunk", "shard"]


class Ring(msgspec.Struct, frozen=True):
    """What has to be published: a doorbell for one shard, good for one fence."""

    job_id: str
    shard: int
    fence: int
    job_kind: str
    shard_kind: ShardKind
    priority: int = PRIORITY


class Submitted(msgspec.Struct, frozen=True):
    """A job was accepted, or a live one with the same key was found (then nothing to ring)."""

    job_id: str
    created: bool
    ring: Ring | None


class Claim(msgspec.Struct, frozen=True):
    """The right to work on one shard, until its fence moves on.

    `cursor` is the last settled position (0 at the start) or, for shards
    without items, whatever number the work keeps its place with; `bookmark` is what
    else it noted there, None at the start.
    """

    job_id: str
    shard: int
    fence: int
    cursor: int
    bookmark: str | None
    single: bool  # one item, then end the chunk: this shard lost its workers before
    shard_kind: ShardKind
    follows: int | None
    job_kind: str
    namespace: str
    params: dict[str, Any]
    owner: str
    task_id: str
    claimed_at: datetime
    lease_seconds: float
    hard_limit_seconds: float
    priority: int = PRIORITY


class Refused(msgspec.Struct, frozen=True):
    """No claim. Acknowledge and leave; with `retry_in`, first publish the same message with that delay."""

    reason: str
    retry_in: float | None = None


class Counts(msgspec.Struct, frozen=True):
    """What one commit adds to its shard. For an embed shard these count vectors."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    bytes: int = 0
    cost_micro: int = 0


class ItemOutcome(msgspec.Struct, frozen=True):
    """How one item of the claim's shard ended."""

    position: int
    state: Literal["done", "skipped", "dead"]
    reason: str | None = None


class NewItem(msgspec.Struct, frozen=True):
    """An item that a plan found. Positions count from 1 and grow within a shard; gaps are fine."""

    item_key: str
    position: int
    part: int
    part_index: int
    shard: int


class NewShard(msgspec.Struct, frozen=True):
    """A shard that a plan's last commit opens."""

    shard: int
    kind: Literal["data", "embed"] = "data"
    follows: int | None = None
    bookmark: str | None = None


class Item(msgspec.Struct, frozen=True):
    """One item: where its input is, and how it stands."""

    position: int
    item_key: str
    part: int
    part_index: int
    state: ItemState
    attempts: int
    reason: str | None
    shard: int


class Committed(msgspec.Struct, frozen=True):
    """A commit that took hold.

    `claim` is what the next commit of this chunk uses; None when the lease is
    gone (asked for, or the job no longer runs): stop, publish `rings`, leave.
    """

    job_state: JobState
    cursor: int
    rings: list[Ring]
    claim: Claim | None


class Followed(msgspec.Struct, frozen=True):
    """How far the shard is that an embed shard follows."""

    cursor: int
    open: bool


class ShardView(msgspec.Struct, frozen=True):
    """One shard, as the command line shows it."""

    shard: int
    kind: ShardKind
    follows: int | None
    state: ShardState
    reason: str | None
    cursor: int
    fence: int
    lease_owner: str | None
    lease_until: datetime | None
    dispatched_at: datetime | None
    not_before: datetime | None
    deliveries: int
    single: bool
    done: int
    skipped: int
    failed: int
    cancelled: int


class JobView(msgspec.Struct, frozen=True):
    """One job, as the command line shows it. Item counters leave vectors out."""

    id: str
    kind: str
    namespace: str
    state: JobState
    priority: int
    idem_key: str | None
    retry_of: str | None
    params: dict[str, Any]
    summary: dict[str, Any]
    submitted_by: str
    cancel_reason: str | None
    last_error: str | None
    total: int | None
    done: int
    skipped: int
    failed: int
    cancelled: int
    bytes: int
    cost_micro: int
    embedded: int
    embed_skipped: int
    embed_failed: int
    embed_total: int | None  # None: nothing to embed, or not yet known
    created_at: datetime
    deadline: datetime
    started_at: datetime | None
    finished_at: datetime | None
    shards: list[ShardView]

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in ("cancelled", "succeeded", "partial", "failed")


class Requested(msgspec.Struct, frozen=True):
    """The job after a request, and what has to be published (after a resume)."""

    job: JobView
    rings: list[Ring]


class Event(msgspec.Struct, frozen=True):
    """One line of a job's timeline."""

    id: int
    at: datetime
    event: str
    shard: int | None
    detail: dict[str, Any]


class AuditRecord(msgspec.Struct, frozen=True):
    """One row of the audit log."""

    id: int
    at: datetime
    client_at: datetime
    actor: str
    host: str
    pid: int
    version: str
    action: str
    job_id: str | None
    args_digest: str | None
    outcome: str
    error_class: str | None
    prev_hash: str
    hash: str


class Mark(msgspec.Struct, frozen=True):
    """When a worker last took something from a queue."""

    queue: str
    worker: str
    seen_at: datetime
    age_seconds: float
