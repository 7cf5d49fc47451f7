"""Eviction: what goes first, what is past its life, and what was chosen, goes page by page and within a budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from celery import Task, shared_task

from cache_management.cache.errors import BackendRefused, ConfigurationError, InvalidInput
from cache_management.cache.sweeping import PAGE, Count, Place, begins_at, first_place, summary_of
from cache_management.models.store.results import Claim, Counts, NewShard
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk
from cache_management.workers.messages import EvictParams

_SINGLE = 50


async def plan(platform: Platform, claim: Claim) -> Progress:
    """Count what shall go, the next page of it; behind the last one open the shard that removes it.

    Leftovers are not counted before: that would cost as much as removing them.
    """
    params = EvictParams.model_validate(claim.params)
    wanted = params.wanted
    counted = msgspec.structs.replace(wanted, leftovers=False, stale=False)
    before = begins_at(wanted, platform.llm_cache.clock())
    place = Place("done", before)
    if claim.bookmark is not None:
        place = _read(claim.bookmark)
    elif counted.steps:
        place = first_place(counted, before)
    with _refusals():
        doing = platform.in_namespace(claim.namespace).sweeping(dry=True, keys_per_second=params.keys_per_second)
        place = await doing.advance(place, counted, limit=_page(claim))
    planned = place.total
    if place.step != "done":
        return Progress(
            to_cursor=claim.cursor + 1,
            bookmark=_written(place),
            summary={"step": "plan", "looked_at": place.looked, "planned": planned.entries},
        )
    work = msgspec.structs.replace(first_place(wanted, place.before), planned=place.found.get("chosen", Count()))
    is_known = planned.entries > 0 and not (wanted.leftovers or wanted.stale)
    return Progress(
        to_cursor=claim.cursor + 1,
        new_shards=[NewShard(1, "data", bookmark=_written(work))],
        total=planned.entries if is_known else None,
        summary={"step": work.step, "planned": planned.entries, "planned_bytes": planned.size_bytes},
        last=True,
    )


async def sweep(platform: Platform, claim: Claim) -> Progress:
    """Remove the next page of what shall go. The cursor counts pages; the bookmark holds the place."""
    params = EvictParams.model_validate(claim.params)
    before = _read(claim.bookmark or "")
    with _refusals():
        doing = platform.in_namespace(claim.namespace).sweeping(keys_per_second=params.keys_per_second)
        after = await doing.advance(before, params.wanted, limit=_page(claim))
    was, now = before.total, after.total
    is_last = after.step == "done"
    # Removed by a run that died before it could say so, or gone by itself since the plan.
    gone = max(0, after.planned.entries - after.found.get("chosen", Count()).entries - after.kept) if is_last else 0
    return Progress(
        to_cursor=claim.cursor + 1,
        counts=Counts(
            done=now.entries - was.entries,
            skipped=after.kept - before.kept + gone,
            bytes=now.size_bytes - was.size_bytes,
        ),
        total=now.entries + after.kept + gone if is_last else None,
        summary=summary_of(after) | ({"gone": gone} if is_last else {}),
        bookmark=_written(after),
        last=is_last,
    )


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell what will not be better at the next try from what may."""
    try:
        yield
    except (ConfigurationError, InvalidInput) as exc:
        raise ShardFailed(str(exc)) from exc
    except BackendRefused as exc:
        if "OOM" in exc.reason:
            raise  # it may have room again
        raise ShardFailed(f"the store does not let itself be swept: {exc}") from exc


def _page(claim: Claim) -> int:
    return _SINGLE if claim.single else PAGE


def _read(bookmark: str) -> Place:
    return msgspec.json.decode(bookmark, type=Place)


def _written(place: Place) -> str:
    return msgspec.json.encode(place).decode()


@shared_task(name="evict.plan", bind=True)
def evict_plan(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Count what an evict job will remove."""
    run_chunk(self, job_id, shard, fence, plan)


@shared_task(name="evict.sweep", bind=True)
def evict_sweep(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Remove what an evict job is about."""
    run_chunk(self, job_id, shard, fence, sweep)
