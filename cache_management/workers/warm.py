"""Warm jobs: prompts with their answers become entries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import takewhile

from celery import Task, shared_task

from cache_management.cache.errors import CorruptRecord
from cache_management.cache.identity import KeySpace, digest
from cache_management.cache.warm_items import AskedItem, WarmItem
from cache_management.cache.warmer import CacheWarmer
from cache_management.models.store.results import Claim, Counts, Item, ItemOutcome, NewItem, NewShard
from cache_management.wiring import Platform
from cache_management.workers.asking import Asked, ask, gather
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk
from cache_management.workers.inputs import pack_inputs, unpack_inputs
from cache_management.workers.messages import WarmParams

_PARTS_KEPT = 4
_parts: OrderedDict[tuple[str, int], list[AskedItem]] = OrderedDict()


async def plan(platform: Platform, claim: Claim) -> Progress:
    """Turn one part of the submitted inputs into items; behind the last part, open the shards.

    The cursor counts parts. Items of equal keys become one item with the last input.
    """
    params = WarmParams.model_validate(claim.params)
    jobs = platform.stores.jobs
    parts = jobs.count_inputs(claim.job_id)
    if params.take != "inputs" and not parts:  # a retry has the inputs that the job before it found
        return await _plan_found(platform, claim, params)
    if claim.cursor < parts:
        part = claim.cursor
        try:
            items = _load_part(platform, claim.job_id, part)
        except CorruptRecord as exc:
            raise ShardFailed(str(exc)) from exc
        # Counted, not computed: another version's submitter may have cut other parts.
        first = jobs.items_before(claim.job_id, part) + 1
        return Progress(to_cursor=part + 1, new_items=_new_items(claim, items, part, first, params.shards))
    return Progress(to_cursor=parts, new_shards=_new_shards(params.shards, embed=params.embed), last=True)


async def _plan_found(platform: Platform, claim: Claim, params: WarmParams) -> Progress:
    """Plan a job that finds its items itself: all in one commit, for the next look would find others."""
    parts = list(pack_inputs(await gather(platform, claim, params)))
    shards = max(1, min(params.shards, len(parts)))
    new_items: list[NewItem] = []
    for part, (payload, _) in enumerate(parts):
        new_items += _new_items(claim, unpack_inputs(payload), part, len(new_items) + 1, shards)
    return Progress(
        to_cursor=len(parts),
        new_inputs=[(part, payload, count) for part, (payload, count) in enumerate(parts)],
        new_items=new_items,
        new_shards=_new_shards(shards, embed=params.embed) if parts else [],
        last=True,
    )


def _new_items(claim: Claim, items: Sequence[WarmItem], part: int, first: int, shards: int) -> list[NewItem]:
    keys = KeySpace("llm", claim.namespace)
    return [
        NewItem(item_key=item_key(keys, item), position=first + at, part=part, part_index=at, shard=1 + part % shards)
        for at, item in enumerate(items)
    ]


def _new_shards(count: int, *, embed: bool) -> list[NewShard]:
    data = [NewShard(number, "data") for number in range(1, count + 1)]
    return [*data, *(NewShard(count + each.shard, "embed", follows=each.shard) for each in data if embed)]


async def store(platform: Platform, claim: Claim) -> Progress:
    """Store the next batch of items as entries; those without a response are asked of the provider, a few at once."""
    params = WarmParams.model_validate(claim.params)
    limit = 1 if claim.single else params.batch_size
    items = platform.stores.jobs.items(claim, after=claim.cursor, limit=limit)
    if not items:
        return Progress(to_cursor=claim.cursor, last=True)
    inputs, lost = load_inputs(platform, claim, items)
    taken = _alike(items, inputs, most_asked=platform.settings.provider.concurrency)
    given = {item.position: inputs[item.position] for item in taken if item.position in inputs}
    is_asked = any(item.is_question for item in given.values())
    settled = await (ask if is_asked else _store_given)(platform, claim, params, given)
    # Up to the first that could not be asked: what lies behind it is found done when it is asked again.
    known = {outcome.position: outcome for outcome in (*lost, *settled.outcomes)}
    done = list(takewhile(lambda item: item.position in known, taken))
    outcomes = [known[item.position] for item in done]
    states = [outcome.state for outcome in outcomes]
    return Progress(
        to_cursor=done[-1].position,
        counts=Counts(
            done=states.count("done"),
            skipped=states.count("skipped"),
            failed=states.count("dead"),
            bytes=settled.size_bytes,
            cost_micro=settled.cost_micro,
        ),
        outcomes=outcomes,
        last=len(items) < limit and len(done) == len(items),
    )


def _alike(items: list[Item], inputs: Mapping[int, AskedItem], *, most_asked: int) -> list[Item]:
    """Return the first items that are all stored, or all asked; of the latter only so many."""
    taken: list[Item] = []
    asks: bool | None = None
    asked = 0
    for item in items:
        given = inputs.get(item.position)
        if given is not None:
            lacks = given.is_question
            if (asks is not None and lacks is not asks) or (lacks and asked == most_asked):
                break
            asks = lacks
            asked += lacks
        taken.append(item)
    return taken


async def _store_given(platform: Platform, claim: Claim, params: WarmParams, items: dict[int, AskedItem]) -> Asked:
    warmer = CacheWarmer(platform.in_namespace(claim.namespace).entries)
    stored = await warmer.store(list(items.values()), version=params.version)
    return Asked(
        [ItemOutcome(at, outcome.state, outcome.reason) for at, outcome in zip(items, stored, strict=True)],
        size_bytes=sum(outcome.size_bytes for outcome in stored if outcome.state == "done"),
        cost_micro=0,
    )


def load_inputs(platform: Platform, claim: Claim, items: list[Item]) -> tuple[dict[int, AskedItem], list[ItemOutcome]]:
    """Return the inputs by position, and an outcome for each item whose input is lost."""
    inputs: dict[int, AskedItem] = {}
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


def _load_part(platform: Platform, job_id: str, part: int) -> list[AskedItem]:
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
