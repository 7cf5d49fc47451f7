"""Play submitter and worker against a store, without a task queue."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from cache_management.cache.errors import MetadataUnavailable
from cache_management.models.base import Database
from cache_management.models.store import Stores
from cache_management.models.store.jobs import JobStore
from cache_management.models.store.results import (
    Claim,
    Committed,
    Counts,
    ItemOutcome,
    NewItem,
    NewShard,
    Refused,
    Ring,
)

_tasks = itertools.count(1)


class HandClock:
    """The database's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self, _connection: Connection) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class LossyDatabase(Database):
    """Loses the reply to the next commit when told to: the changes are there, the caller cannot know."""

    lose_reply = False

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as connection:
            yield connection
        if self.lose_reply:
            self.lose_reply = False
            raise MetadataUnavailable("the reply to COMMIT was lost")


class Acting:
    """A submitter, and as many workers as asked for."""

    def __init__(self, stores: Stores, clock: HandClock) -> None:
        self.stores, self.jobs, self.clock = stores, stores.jobs, clock

    def submit(self, **options: Any) -> Ring:
        given = {"kind": "warm", "params": {}, "namespace": "tests", "submitted_by": "tester", **options}
        submitted = self.jobs.create(**given)
        assert submitted.ring is not None
        return submitted.ring

    def claim(self, ring: Ring, **options: Any) -> Claim:
        claimed = self.try_claim(ring, **options)
        assert isinstance(claimed, Claim), claimed
        return claimed

    def try_claim(self, ring: Ring, **options: Any) -> Claim | Refused:
        options = {"owner": "worker", "task_id": f"task-{next(_tasks)}", "hard_limit_seconds": 90, **options}
        return self.jobs.claim(ring.job_id, ring.shard, ring.fence, **options)

    def planned(self, items: int = 3, *, shards: int = 1, embed: bool = False, **options: Any) -> list[Ring]:
        """Submit a job and plan it: `items` in each data shard; rings of the data shards."""
        plan = self.claim(self.submit(**options))
        new_items = [
            NewItem(item_key=f"{shard}/{position}", position=position, part=0, part_index=position, shard=shard)
            for shard in range(1, shards + 1)
            for position in range(1, items + 1)
        ]
        new_shards = [NewShard(shard) for shard in range(1, shards + 1)]
        if embed:
            new_shards += [NewShard(100 + shard, "embed", shard) for shard in range(1, shards + 1)]
        committed = self.jobs.commit(plan, to_cursor=1, end="shard", new_items=new_items, new_shards=new_shards)
        assert committed is not None
        return committed.rings

    def work(self, claim: Claim, count: int = 1, **options: Any) -> Committed | None:
        """Do the next items of a data shard, all well, and commit them."""
        positions = [item.position for item in self.jobs.items(claim, after=claim.cursor, limit=count)]
        return self.jobs.commit(
            claim,
            to_cursor=max(positions, default=claim.cursor),
            counts=Counts(done=len(positions)),
            outcomes=[ItemOutcome(position, "done") for position in positions],
            **options,
        )

    def embed(self, claim: Claim, **options: Any) -> Committed | None:
        """Embed all that the data shard has done so far."""
        reached = self.jobs.followed(claim)
        items = self.jobs.items(claim, after=claim.cursor, limit=1000, up_to=reached.cursor, states=("done", "skipped"))
        return self.jobs.commit(
            claim,
            to_cursor=reached.cursor,
            counts=Counts(done=len(items)),
            **{"end": "chunk" if reached.open else "shard", **options},
        )

    def finish(self, job_id: str) -> None:
        """Do all that a reconciler finds to do until the job ends."""
        for _ in range(200):
            if self.jobs.get(job_id).ended:
                return
            self.clock.advance(31)
            self.run(self.jobs.reconcile())
        raise AssertionError(f"job does not end: {self.jobs.get(job_id)}")

    def run(self, rings: list[Ring]) -> None:
        """Answer rings, and the rings that follow from them, with runs that do their work well."""
        todo = list(rings)
        while todo:
            claim = self.try_claim(todo.pop(0))
            if isinstance(claim, Refused):
                continue
            committed = self.step(claim)
            if committed is not None:
                todo += committed.rings

    def step(self, claim: Claim) -> Committed | None:
        """Do one chunk of one or two items, or end the shard."""
        if claim.shard_kind == "embed":
            return self.embed(claim)
        left = self.jobs.items(claim, after=claim.cursor, limit=3)
        size = 1 if claim.single else 2
        return self.work(claim, size, end="shard" if len(left) <= size else "chunk")


def shard_of(jobs: JobStore, job_id: str, shard: int) -> Any:
    return next(view for view in jobs.get(job_id).shards if view.shard == shard)
