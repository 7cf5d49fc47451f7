"""Repair of a replicated cache: nodes are brought up to date, moves come to their end, copies are made level.

Part by part, with the place in the bookmark: whoever takes over after a worker that died goes on there, and at most
its last half second is done again. What befalls the nodes meanwhile goes into the audit log.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec
from celery import Task, shared_task

from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.cluster.mending import FATES, PAGE, STEP_SECONDS, Mending, Place, summary_of
from cache_management.cache.errors import CacheError, ConfigurationError
from cache_management.cache.events import Event, Listener, NodeEvent
from cache_management.models.store.audit import digest
from cache_management.models.store.results import Claim, Counts
from cache_management.wiring import Platform
from cache_management.workers import runtime
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk
from cache_management.workers.messages import RepairParams

logger = logging.getLogger("cache_management.workers")

_SINGLE = 50


async def scan(platform: Platform, claim: Claim) -> Progress:
    """Do the next part of a repair. The cursor counts parts; the bookmark holds the place."""
    if not platform.settings.distributed.enabled:
        raise ShardFailed(
            f"the {platform.llm_cache.backend.name} store keeps one copy of each entry: there is nothing to repair it"
            " from; distributed.enabled keeps several"
        )
    params = RepairParams.model_validate(claim.params)
    before = msgspec.json.decode(claim.bookmark, type=Place) if claim.bookmark else Place()
    try:
        mending = Mending(_listening(platform), full=params.full, keys_per_second=params.keys_per_second)
        after = await mending.advance(
            before, limit=_SINGLE if claim.single else PAGE, seconds=0 if claim.single else STEP_SECONDS
        )
    except ConfigurationError as exc:
        raise ShardFailed(str(exc)) from exc
    is_last = after.step == "done"
    return Progress(
        to_cursor=claim.cursor + 1,
        counts=Counts(
            done=after.tally.seen - before.tally.seen,
            bytes=after.tally.bytes - before.tally.bytes,
        ),
        total=after.tally.seen if is_last else None,
        summary=summary_of(after),
        bookmark=msgspec.json.encode(after).decode(),
        last=is_last,
    )


def _listening(platform: Platform) -> DistributedCache:
    """Return the replicated cache, whose nodes' fates this process writes down from now on."""
    _ = platform.llm_cache  # it listens first: what it tells its own listeners it tells on
    cache = platform.replicated
    if not isinstance(cache.listener, _Writing):
        cache.listener = _Writing(platform, cache.listener)
    return cache


class _Writing:
    """A listener that also writes into the audit log when a node came, went, was given up, or data may be lost."""

    def __init__(self, platform: Platform, listener: Listener) -> None:
        self._platform = platform
        self._listener = listener

    def __call__(self, event: Event) -> None:
        self._listener(event)
        if isinstance(event, NodeEvent) and event.what in FATES:
            # Not here: the database may be away, and the loop must not wait for it.
            asyncio.get_running_loop().run_in_executor(None, self._write, event)

    def _write(self, event: NodeEvent) -> None:
        try:
            self._platform.stores.audit.append(
                actor=runtime.current().owner,
                action=f"cluster.{event.what}",
                args_digest=digest({"node": event.node}),
            )
        except CacheError as exc:
            logger.warning("%s was %s, which is not in the audit log: %s", event.node, event.what, exc)


@shared_task(name="repair.scan", bind=True)
def repair_scan(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Bring the copies of a replicated cache to the same versions."""
    run_chunk(self, job_id, shard, fence, scan)
