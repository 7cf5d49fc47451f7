"""One chunk of a job: claim, step, commit, ring the next. Every kind of work runs in this shell.

The row is the truth. A step may run twice, a commit takes hold once: it names the fence
and the cursor it started from. See docs/design/0003-jobs.md.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from celery import Task
from celery.exceptions import SoftTimeLimitExceeded

from cache_management.cache.errors import BackendUnavailable, CacheError, MetadataUnavailable
from cache_management.models.store import Stores
from cache_management.models.store.results import (
    Claim,
    Committed,
    Counts,
    End,
    ItemOutcome,
    NewItem,
    NewShard,
    Refused,
    Ring,
)
from cache_management.wiring import Platform
from cache_management.workers import runtime
from cache_management.workers.client import JobClient, backoff_seconds
from cache_management.workers.messages import TASK_LIMITS

logger = logging.getLogger("cache_management.workers")

CHUNK_SECONDS = 10.0
LEASE_SECONDS = 30.0
_RENEW_EVERY_SECONDS = 5.0


class Progress(msgspec.Struct, frozen=True):
    """What one step did, from the claim's cursor to `to_cursor`.

    `last`: the shard is at its end. `wait`: there is nothing more to do until somebody rings. `bookmark`
    is what the next claim shall know beside the cursor; `total` is for jobs without items.
    """

    to_cursor: int
    counts: Counts = Counts()
    outcomes: Sequence[ItemOutcome] = ()
    last: bool = False
    wait: bool = False
    new_items: Sequence[NewItem] = ()
    new_shards: Sequence[NewShard] = ()
    total: int | None = None
    summary: dict[str, Any] | None = None
    bookmark: str | None = None
    new_inputs: Sequence[tuple[int, bytes, int]] = ()


Step = Callable[[Platform, Claim], Awaitable[Progress]]
"""Does a bounded piece of work behind `claim.cursor`. May run twice."""


class ShardFailed(CacheError):
    """Raised by a step when its shard cannot go on; the rest of the job does."""


class JobPaused(CacheError):
    """Raised by a step when somebody has to do something first; what it committed stays, and `resume` goes on."""


class ComeBackLater(CacheError):
    """Raised by a step that can do nothing now: its shard waits, and goes on by itself.

    With `blame` it may be the fault of its items: after some tries they go one by one, and the one that fails dies.
    """

    def __init__(self, reason: str, *, seconds: float, blame: bool = False) -> None:
        super().__init__(reason)
        self.seconds = seconds
        self.blame = blame


def run_chunk(task: Task, job_id: str, shard: int, fence: int, step: Step) -> None:
    """Answer one doorbell: work for about ten seconds, then leave the rest to the next message."""
    here = runtime.current()
    stores = here.platform.stores
    client = here.client
    attempt = _attempt(task)
    claimed = stores.jobs.claim(
        job_id,
        shard,
        fence,
        owner=here.owner,
        task_id=task.request.id,
        # Six renewals long: a killed worker's shard waits for its end, a database that is away shortens it.
        lease_seconds=LEASE_SECONDS,
        hard_limit_seconds=TASK_LIMITS[task.name].hard_seconds,
        namespace_limit=here.settings.jobs.namespace_concurrency or None,
    )
    if isinstance(claimed, Refused):
        logger.info("%s of job %s, shard %s: %s", task.name, job_id, shard, claimed.reason)
        if claimed.retry_in is not None:
            # The same message again, with its own id and fence: only so it can take over.
            task.apply_async(
                args=[job_id, shard, fence],
                countdown=claimed.retry_in,
                task_id=task.request.id,
                # Without one it would come before everything that waits.
                priority=(task.request.delivery_info or {}).get("priority"),
                headers={"attempt": attempt},
                retry=False,
            )
        return
    try:
        with _renewing(stores, claimed):
            _work(here, client, claimed, step)
    except ShardFailed as exc:
        logger.warning("job %s, shard %s cannot go on: %s", job_id, shard, exc)
        failed = stores.jobs.fail_shard(claimed, str(exc))
        if failed is not None:
            client.ring(failed.rings)
    except JobPaused as exc:
        logger.warning("job %s, shard %s pauses: %s", job_id, shard, exc)
        stores.jobs.hold(claimed, str(exc))
    except ComeBackLater as exc:
        logger.info("job %s, shard %s waits for %.1f s: %s", job_id, shard, exc.seconds, exc)
        ring = _give_back(stores, claimed, retry_in=exc.seconds, blame=exc.blame, reason=str(exc))
        if ring is not None:
            client.ring([ring], delay_seconds=exc.seconds)
    except Exception as exc:  # the edge of a task: whatever the work raised, the shard must not stay leased
        # A store that is away is nobody's fault; anything else may be the item's, and is counted:
        # a batch that is too slow for the time limit must go item by item.
        outage = isinstance(exc, BackendUnavailable | MetadataUnavailable | TimeoutError)
        pause = backoff_seconds(attempt) if outage else 0.0
        logger.warning("job %s, shard %s is given back for %.0f s", job_id, shard, pause, exc_info=not outage)
        ring = _give_back(stores, claimed, retry_in=pause, blame=not outage, reason=type(exc).__name__)
        if ring is not None:
            client.ring([ring], delay_seconds=pause, attempt=attempt + 1)


def _work(here: runtime.Runtime, client: JobClient, claim: Claim, step: Step) -> None:
    """Step and commit until the chunk is over or the claim is lost."""
    until = time.monotonic() + CHUNK_SECONDS
    while True:
        progress = here.run(_start(step, here.platform, claim))
        end: End = "continue"
        if progress.last:
            end = "shard"
        elif progress.wait or claim.single or time.monotonic() >= until:
            end = "chunk"
        committed = _commit(here.platform.stores, claim, progress, end)
        if committed is None:
            logger.info("job %s, shard %s: the claim is lost", claim.job_id, claim.shard)
            return
        # After every commit, not only the last: a shard that follows this one can begin.
        client.ring(committed.rings)
        if committed.claim is None:
            return
        claim = committed.claim


async def _start(step: Step, platform: Platform, claim: Claim) -> Progress:
    return await step(platform, claim)


def _commit(stores: Stores, claim: Claim, progress: Progress, end: End) -> Committed | None:
    """Commit, and repeat the same commit while the database is away.

    The repeat is safe: should the first one have taken hold after all, it finds another cursor
    and changes nothing. The task's time limit ends the waiting.
    """
    pause = 0.2
    away: MetadataUnavailable | None = None
    while True:
        try:
            return stores.jobs.commit(
                claim,
                to_cursor=progress.to_cursor,
                counts=progress.counts,
                outcomes=progress.outcomes,
                end=end,
                new_items=progress.new_items,
                new_shards=progress.new_shards,
                total=progress.total,
                summary=progress.summary,
                bookmark=progress.bookmark,
                new_inputs=progress.new_inputs,
            )
        except MetadataUnavailable as exc:
            logger.warning("job %s: the database is away, the commit is repeated: %s", claim.job_id, exc)
            away = exc
            try:
                time.sleep(pause)
            except SoftTimeLimitExceeded:
                raise away from None
            pause = min(pause * 2, 5.0)
        except SoftTimeLimitExceeded:
            # Spent waiting for the database: not the work's fault.
            if away is None:
                raise
            raise away from None


def _give_back(stores: Stores, claim: Claim, *, retry_in: float, blame: bool, reason: str) -> Ring | None:
    """Release a claim; a database that is away gets a few seconds, then the lease runs out by itself."""
    for pause in (0.2, 0.5, 1.0, 2.0):
        try:
            return stores.jobs.release(claim, retry_in=retry_in, blame=blame, reason=reason)
        except MetadataUnavailable as exc:
            logger.warning("job %s: the database is away, giving back is repeated: %s", claim.job_id, exc)
            time.sleep(pause)
    return stores.jobs.release(claim, retry_in=retry_in, blame=blame, reason=reason)


@contextmanager
def _renewing(stores: Stores, claim: Claim) -> Iterator[None]:
    """Prolong the lease while the work goes on; the store refuses beyond the hard limit."""
    finished = threading.Event()

    def renew() -> None:
        while not finished.wait(_RENEW_EVERY_SECONDS):
            try:
                if not stores.jobs.renew(claim):
                    return
            except MetadataUnavailable as exc:
                logger.warning("job %s: the lease could not be renewed: %s", claim.job_id, exc)

    thread = threading.Thread(target=renew, name="cache-renew", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(timeout=10)


def _attempt(task: Task) -> int:
    headers = task.request.headers or {}
    found = headers.get("attempt", getattr(task.request, "attempt", 0))
    return found if isinstance(found, int) else 0
