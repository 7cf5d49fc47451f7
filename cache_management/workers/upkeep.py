"""Jobs that keep the metadata good: what is old goes, and the audit log is proven whole."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from celery import Task, shared_task

from cache_management.cache.transfer.exporting import owner_of
from cache_management.cache.transfer.stream_files import StreamWriter
from cache_management.models.job import JobState
from cache_management.models.store.audit import GENESIS, Verified
from cache_management.models.store.pruning import Keep
from cache_management.models.store.results import Claim, Counts
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk
from cache_management.workers.messages import PruneParams

_ROWS_AT_ONCE = 5_000
_JOBS_LOOKED_AT = 1_000


async def prune(platform: Platform, claim: Claim) -> Progress:
    """Delete the next rows of history that are kept no longer; the bookmark counts them.

    First go the files of exports that will not be finished, as far as this machine has them: they hold answers.
    """
    keep = Keep(**PruneParams.model_validate(claim.params).model_dump())
    gone = platform.stores.pruning.prune(keep)
    before = msgspec.json.decode(claim.bookmark or "{}", type=dict[str, int])
    sums = {name: before.get(name, 0) + count for name, count in msgspec.structs.asdict(gone).items()}
    files = _remove_unfinished(platform) if claim.bookmark is None else 0
    sums["unfinished_files"] = before.get("unfinished_files", 0) + files
    return Progress(
        to_cursor=claim.cursor + 1,
        counts=Counts(done=gone.total + files),
        bookmark=msgspec.json.encode(sums).decode(),
        summary=sums,
        total=sum(sums.values()),
        last=gone.total == 0,
    )


def _remove_unfinished(platform: Platform) -> int:
    """Remove what exports left that were cancelled or failed; one that is paused is still to be resumed."""
    removed = 0
    states: tuple[JobState, ...] = ("cancelled", "failed")
    for state in states:
        for job in platform.stores.jobs.list(kind="export", state=state, limit=_JOBS_LOOKED_AT):
            owner = owner_of(job.id)
            unfinished = StreamWriter(Path(job.params["path"]), owner=owner).unfinished
            with contextlib.suppress(OSError):  # of another machine, or gone
                unfinished.unlink()
                removed += 1
    return removed


class _Walk(msgspec.Struct, frozen=True):
    """Where a check of the audit log stands, and the head that the last one proved."""

    hash: str = GENESIS
    head: tuple[int, str] | None = None


async def audit_verify(platform: Platform, claim: Claim) -> Progress:
    """Check the next entries of the audit log, also against the head that the last check saw.

    The cursor is the last entry that holds.
    """
    walk = (
        msgspec.json.decode(claim.bookmark, type=_Walk)
        if claim.bookmark
        else _Walk(head=platform.stores.audit.proven())
    )
    found = platform.stores.audit.verify_page(Verified(claim.cursor, walk.hash), head=walk.head, limit=_ROWS_AT_ONCE)
    if found.broken is not None:
        raise ShardFailed(
            f"the audit log is broken at entry {found.broken}: it was changed, or what follows was removed; compare it"
            " with an export of it (`cache-cli audit export`)"
        )
    return Progress(
        to_cursor=found.id,
        counts=Counts(done=found.id - claim.cursor),
        bookmark=msgspec.json.encode(_Walk(found.hash, walk.head)).decode(),
        summary={"head_id": found.id, "head_hash": found.hash},
        total=found.id,
        last=found.is_over,
    )


@shared_task(name="control.prune", bind=True)
def control_prune(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Delete history that is kept no longer."""
    run_chunk(self, job_id, shard, fence, prune)


@shared_task(name="control.audit_verify", bind=True)
def control_audit_verify(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Prove that the audit log is whole."""
    run_chunk(self, job_id, shard, fence, audit_verify)
