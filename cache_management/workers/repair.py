"""Repair jobs: recorded and queued like any other. The replicated cache that they repair is not there yet."""

from __future__ import annotations

from celery import Task, shared_task

from cache_management.models.store.results import Claim
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk


async def plan(platform: Platform, claim: Claim) -> Progress:
    """Refuse: one store has no other copy to be compared with."""
    raise ShardFailed(
        f"the {platform.llm_cache.backend.name} store keeps one copy of each entry: there is nothing to repair it from"
    )


@shared_task(name="repair.scan", bind=True)
def repair_scan(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Begin a repair job."""
    run_chunk(self, job_id, shard, fence, plan)
