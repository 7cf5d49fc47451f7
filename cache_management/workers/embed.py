"""Embedding: entries become findable by meaning. The only tasks that load a model."""

from __future__ import annotations

import asyncio

import msgspec
from celery import Task, shared_task

from cache_management.cache.errors import EmbedderUnavailable, InvalidInput
from cache_management.cache.identity import storage_prefix
from cache_management.cache.semantic.re_embedding import (
    PAGE,
    CutOverRefused,
    Place,
    Tally,
    Wanted,
    first_place,
    refusal_of_cut_over,
    summary_of,
)
from cache_management.models.store.results import Claim, Counts, NewShard
from cache_management.wiring import Platform
from cache_management.workers.chunk import Progress, ShardFailed, run_chunk
from cache_management.workers.messages import EmbedParams
from cache_management.workers.pace import Pace
from cache_management.workers.warm import load_inputs

_BATCH = 256
_SINGLE = 16  # keys: a store gives no page of one
_COUNTING_SECONDS = 20.0

# Of this process: the model, the processor and the texts say how much is quick.
_batches = Pace(least=_SINGLE, most=_BATCH)
_pages = Pace(least=_SINGLE, most=PAGE)


async def embed(platform: Platform, claim: Claim) -> Progress:
    """Embed the next entries that the followed shard has stored."""
    jobs = platform.stores.jobs
    # Read before the items: what is stored in between is seen at the next look, never jumped over.
    ahead = jobs.followed(claim)
    limit = 1 if claim.single else _batches.size
    items = jobs.items(claim, after=claim.cursor, limit=limit, up_to=ahead.cursor, states=("done", "skipped"))
    exhausted = len(items) < limit
    to_cursor = max(claim.cursor, ahead.cursor) if exhausted else items[-1].position
    counts = Counts()
    if items:
        inputs, lost = load_inputs(platform, claim, items)
        try:
            manager = platform.in_namespace(claim.namespace).manager
            with _batches.measured(len(inputs)):
                report = await manager.index([item.entry_key for item in inputs.values()])
        except (EmbedderUnavailable, ImportError) as exc:
            raise ShardFailed(f"entries stay exact-only: {exc}") from exc
        found = report.added + report.unchanged
        counts = Counts(done=found, skipped=len(inputs) - found, failed=len(lost))
    return Progress(
        to_cursor=to_cursor, counts=counts, last=exhausted and not ahead.open, wait=exhausted and ahead.open
    )


async def plan(platform: Platform, claim: Claim) -> Progress:
    """Make sure that this worker can do an embed job, count the entries, and open the one shard that walks them."""
    params = EmbedParams.model_validate(claim.params)
    model = str(platform.settings.embedding_model)
    if params.model != model:
        raise ShardFailed(
            f"the job is for {params.model}, this worker embeds with {model}: give both one embedding_model, restart"
            " the worker, and submit again"
        )
    here = platform.in_namespace(claim.namespace)
    matcher = here.manager.similarity_matcher
    if matcher is not None:
        try:
            await matcher.embedder.load()
        except (EmbedderUnavailable, ImportError) as exc:
            raise ShardFailed(f"entries stay as they are: {exc}") from exc
    total: int | None = None
    try:
        async with asyncio.timeout(_COUNTING_SECONDS):
            total = await here.llm_cache.backend.count(storage_prefix("llm", claim.namespace))
    except TimeoutError:
        pass  # of a very large store nobody need know it beforehand
    # Noted here, once: whoever repeats the first page must not take what is new for old.
    place = first_place(_wanted(params), here.llm_cache.clock())
    shard = NewShard(1, bookmark=msgspec.json.encode(place).decode())
    return Progress(to_cursor=claim.cursor + 1, total=total, new_shards=[shard], last=True)


async def walk(platform: Platform, claim: Claim) -> Progress:
    """Do the next page of an embed job. The cursor counts pages, the bookmark says where the work stands."""
    params = EmbedParams.model_validate(claim.params)
    wanted = _wanted(params)
    here = platform.in_namespace(claim.namespace)
    before = msgspec.json.decode(claim.bookmark or "", type=Place)
    work = here.re_embedding()
    try:
        limit = _SINGLE if claim.single else _pages.size
        with _pages.measured(limit):
            after = await work.advance(before, wanted, limit=limit)
    except (EmbedderUnavailable, ImportError, InvalidInput) as exc:
        raise ShardFailed(f"the entries that are left stay as they are: {exc}") from exc
    except CutOverRefused as exc:
        raise ShardFailed(str(exc)) from exc
    finally:
        await work.aclose()
    # A refusal needs a step of its own: what this one did must be written down first.
    is_last = after.step == "done" and not (wanted.drop_old and refusal_of_cut_over(after))
    return Progress(
        to_cursor=claim.cursor + 1,
        counts=Counts(
            done=after.tally.embedded - before.tally.embedded, skipped=_passed(after.tally) - _passed(before.tally)
        ),
        total=after.tally.embedded + _passed(after.tally) if is_last else None,
        summary=summary_of(after),
        bookmark=msgspec.json.encode(after).decode(),
        last=is_last,
    )


def _wanted(params: EmbedParams) -> Wanted:
    return Wanted(check=params.check, all=params.all, drop_old=params.drop_old)


def _passed(tally: Tally) -> int:
    return tally.present + tally.too_long + tally.exact_only + tally.gone


@shared_task(name="embed.plan", bind=True)
def embed_plan(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Begin an embed job."""
    run_chunk(self, job_id, shard, fence, plan)


@shared_task(name="embed.walk", bind=True)
def embed_walk(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Embed, check or remove the next vectors of an embed job."""
    run_chunk(self, job_id, shard, fence, walk)


@shared_task(name="embed.batch", bind=True)
def embed_batch(self: Task, job_id: str, shard: int, fence: int) -> None:
    """Make stored entries of a job findable by meaning."""
    run_chunk(self, job_id, shard, fence, embed)
