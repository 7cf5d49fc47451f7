"""Warm jobs: prompts with their answers become entries."""

from __future__ import annotations

from collections import OrderedDict

from celery import Task, shared_task

from cache_management.cache.errors import CorruptRecord
from cache_management.cache.identity import KeySpace, digest
from cache_management.cache.warm_items import WarmItem
from cache_management.cache.warmer import CacheWarmer
from cache_management.models.store.results import Claim, Counts, Item, ItemOutcome, NewItem, NewShard
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk
from cache_management.workers.inputs import unpack_inputs
from cache_management.workers.messages import WarmParams

_PARTS_KEPT = 4
_parts: OrderedDict[tuple[str, int], list[WarmItem]] = OrderedDict()


async def plan(platform: Platform, claim: Claim) -> Progress:
    """Turn one part of the submitted inputs into items; behind the last part, open the shards.

    The cursor counts parts. Items of equal keys become one item with the last input.
    """
    params = WarmParams.model_validate(claim.params)
    jobs = platform.stores.jobs
    parts = jobs.count_inputs(claim.job_id)
    if claim.cursor < parts:
        part = claim.cursor
        try:
            items = _load_part(platform, claim.job_id, part)
        except CorruptRecord as exc:
            raise ShardFailed(str(exc)) from exc
        keys = KeySpace("llm", claim.namespace)
        # Counted, not computed: another version's submitter may have cut other parts.
        first = jobs.items_before(claim.job_id, part) + 1
        return Progress(
            to_cursor=part + 1,
            new_items=[
                NewItem(
                    item_key=item_key(keys, item),
                    position=first + at,
                    part=part,
                    part_index=at,
                    shard=1 + part % params.shards,
                )
                for at, item in enumerate(items)
            ],
        )
    data = [NewShard(number, "data") for number in range(1, params.shards + 1)]
    embed = [NewShard(params.shards + each.shard, "embed", follows=each.shard) for each in data]
    return Progress(to_cursor=parts, new_shards=[*data, *(embed if params.embed else [])], last=True)


async def store(platform: Platform, claim: Claim) -> Progress:
    """Store the next batch of items as entries."""
    params = WarmParams.model_validate(claim.params)
    limit = 1 if claim.single else params.batch_size
    items = platform.stores.jobs.items(claim, after=claim.cursor, limit=limit)
    if not items:
        return Progress(to_cursor=claim.cursor, last=True)
    inputs, outcomes = load_inputs(platform, claim, items)
    warmer = CacheWarmer(platform.in_namespace(claim.namespace).entries)
    stored = await warmer.store(list(inputs.values()), version=params.version)
    size_bytes = 0
    for position, outcome in zip(inputs, stored, strict=True):
        outcomes.append(ItemOutcome(position, outcome.state, outcome.reason))
        size_bytes += outcome.size_bytes if outcome.state == "done" else 0
    states = [outcome.state for outcome in outcomes]
    return Progress(
        to_cursor=items[-1].position,
        counts=Counts(
            done=states.count("done"),
            skipped=states.count("skipped"),
            failed=states.count("dead"),
            bytes=size_bytes,
        ),
        outcomes=outcomes,
        last=len(items) < limit,
    )


def load_inputs(platform: Platform, claim: Claim, items: list[Item]) -> tuple[dict[int, WarmItem], list[ItemOutcome]]:
    """Return the inputs by position, and an outcome for each item whose input is lost."""
    inputs: dict[int, WarmItem] = {}
    lost: list[ItemOutcome] = []
    for item in items:
        try:
            inputs[item.position] = _load_part(platform, claim.job_id, item.part)[item.part_index]
        except (CorruptRecord, IndexError) as exc:
            lost.append(ItemOutcome(item.position, "dead", f"its input cannot be read: {exc}"))
    return inputs, lost


def item_key(keys: KeySpace, item: WarmItem) -> str:
    """Name an item without telling its text."""
    return digest(keys.to_storage(item.entry_key))


def _load_part(platform: Platform, job_id: str, part: int) -> list[WarmItem]:
    found = _parts.get((job_id, part))
    if found is None:
        found = unpack_inputs(platform.stores.jobs.load_input(job_id, part))
        _parts[job_id, part] = found
        while len(_parts) > _PARTS_KEPT:
            _parts.popitem(last=False)
    return found


@shared_task(name="warm.plan", bind=True)
def warm_plan(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Expand a warm job into items."""
    run_chunk(self, job_id, shard, fence, plan)


@shared_task(name="warm.chunk", bind=True)
def warm_chunk(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Store items of a warm job."""
    run_chunk(self, job_id, shard, fence, store)
