"""Embedding: entries become findable by meaning. The only tasks that load a model."""

from __future__ import annotations

from celery import Task, shared_task

from cache_management.cache.errors import EmbedderUnavailable
from cache_management.models.store.results import Claim, Counts
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk
from cache_management.workers.warm import load_inputs

_BATCH = 256


async def embed(platform: Platform, claim: Claim) -> Progress:
    """Embed the next entries that the followed shard has stored."""
    jobs = platform.stores.jobs
    # Read before the items: what is stored in between is seen at the next look, never jumped over.
    ahead = jobs.followed(claim)
    limit = 1 if claim.single else _BATCH
    items = jobs.items(claim, after=claim.cursor, limit=limit, up_to=ahead.cursor, states=("done", "skipped"))
    exhausted = len(items) < limit
    to_cursor = max(claim.cursor, ahead.cursor) if exhausted else items[-1].position
    counts = Counts()
    if items:
        inputs, lost = load_inputs(platform, claim, items)
        try:
            manager = platform.in_namespace(claim.namespace).manager
            report = await manager.index([item.entry_key for item in inputs.values()])
        except (EmbedderUnavailable, ImportError) as exc:
            raise ShardFailed(f"entries stay exact-only: {exc}") from exc
        found = report.added + report.unchanged
        counts = Counts(done=found, skipped=len(inputs) - found, failed=len(lost))
    return Progress(
        to_cursor=to_cursor, counts=counts, last=exhausted and not ahead.open, wait=exhausted and ahead.open
    )


@shared_task(name="embed.batch", bind=True)
def embed_batch(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Make stored entries of a job findable by meaning."""
    run_chunk(self, job_id, shard, fence, embed)
