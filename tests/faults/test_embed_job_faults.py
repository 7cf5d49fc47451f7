"""A model changes under readers: real workers embed anew, one is killed, and no hit is lost at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from cache_management import CacheConfig, LLMCache
from cache_management.cache.config import SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.values import Lookup
from cache_management.models.store.results import JobView
from tests.conftest import OwnRedis
from tests.waiting import wait_until
from tests.workers.harness import JobWorld

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

COUNT = 4_000
MakeWorld = Callable[..., JobWorld]


def question(at: int) -> str:
    return f"what is thing number {at} good for"


class ByBothModels(SimilarityMatcher):
    """A matcher whose model before is a light one too."""

    def older(self) -> SimilarityMatcher | None:
        config = self.config.model_copy(update={"previous_model": None})
        if self.config.previous_model is None:
            return None
        made = SimilarityMatcher(config, backend=self.backend, embedder=HashingEmbedder(32))
        made._is_older = True
        return made


@asynccontextmanager
async def reader(url: str, *, by_both: bool = False, dims: int = 64) -> AsyncIterator[CacheManager]:
    cache = LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=5))
    config = SimilarityConfig(
        model="hashing",
        threshold=0.95,
        previous_model="hashing" if by_both else None,
        embed_timeout_seconds=60,  # a busy machine must not leave entries without a vector
    )
    matcher = ByBothModels(config, backend=cache.backend, embedder=HashingEmbedder(dims))
    async with CacheManager(cache, matcher) as manager:
        yield manager


async def ask(manager: CacheManager, at: int) -> Lookup:
    # Other signs, equal words: another key, and the same meaning to this embedder.
    return await manager.lookup(f"{question(at)} ?", model="m")


async def fill(url: str, count: int) -> None:
    """Store answers with the former model."""
    async with reader(url, dims=32) as manager:
        for start in range(0, count, 100):
            await asyncio.gather(
                *(manager.store(question(at), f"answer {at}", model="m") for at in range(start, start + 100))
            )
    assert (await count_vectors(url))["hashing-32"] == count


async def lost(url: str, count: int, **options: bool) -> list[int]:
    """Return the questions that a fresh reader does not find."""
    async with reader(url, **options) as manager:
        return [at for at in range(count) if (await ask(manager, at)).kind != "semantic"]


async def count_vectors(url: str) -> dict[str, int]:
    async with LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=5)) as cache:
        return {
            space: await cache.backend.count(f"cm1:vec:default:k{space}/") for space in ("hashing-32", "hashing-64")
        }


def run_to_its_end(world: JobWorld, job_id: str) -> JobView:
    job = world.wait_for_job(job_id, timeout=120)
    assert world.stores.audit.verify() is None
    return job


async def read_meanwhile(
    url: str, work: Callable[[], JobView], count: int
) -> tuple[JobView, int, list[tuple[int, str]]]:
    """Look up all the time by both models while work goes on; return its job, how many lookups, and the misses."""
    misses: list[tuple[int, str]] = []
    asked = 0
    async with reader(url, by_both=True) as manager:
        working = asyncio.create_task(asyncio.to_thread(work))
        while not working.done():
            at = asked * 7919 % count
            found = await ask(manager, at)
            if found.kind != "semantic" or found.response is None or found.response.response != f"answer {at}":
                misses.append((at, found.reason))
            asked += 1
        for at in range(0, count, 7):
            found = await ask(manager, at)
            if found.kind != "semantic":
                misses.append((at, found.reason))
        return await working, asked, misses


async def test_the_model_changes_a_worker_dies_and_no_reader_loses_a_hit(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis, postgres_url: str
) -> None:
    # On SQLite the same statements run in `tests/models/store`, which inherit one suite for both.
    world = make_world(broker_url=broker.url, cache_url=node.url, metadata_url=postgres_url)
    await fill(node.url, COUNT)
    assert len(await lost(node.url, 20)) == 20, "the new model finds nothing yet"

    def work() -> JobView:
        worker = world.start_worker(queues=("embed",), concurrency=1)
        job_id = world.client.submit_embed(drop_old=True).job_id
        world.wait_for_items(job_id, 500)
        worker.kill()
        assert not world.client.get(job_id).ended, "the job was over before the worker died"
        world.reconcile_after_a_death()
        world.start_worker(queues=("embed",), concurrency=1)
        return run_to_its_end(world, job_id)

    job, asked, misses = await read_meanwhile(node.url, work, COUNT)

    assert misses == []
    assert asked > 100
    assert (job.state, job.summary["complete"], job.summary["dropped"]) == ("succeeded", True, COUNT)
    assert job.done + job.skipped == COUNT
    assert await lost(node.url, COUNT) == []
    assert await count_vectors(node.url) == {"hashing-32": 0, "hashing-64": COUNT}


async def test_a_job_paused_and_resumed_goes_on_and_embeds_everything(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    await fill(node.url, COUNT)

    def work() -> JobView:
        world.start_worker(queues=("embed",), concurrency=1)
        job_id = world.client.submit_embed().job_id
        world.wait_for_items(job_id, 250)
        world.client.request(job_id, "pause")
        wait_until(lambda: world.client.get(job_id).state == "paused", timeout=30)
        assert 250 <= world.client.get(job_id).done < COUNT
        again = world.client.submit_embed()
        assert (again.created, again.job_id) == (False, job_id)
        world.client.request(job_id, "resume")
        return run_to_its_end(world, job_id)

    job = await asyncio.to_thread(work)

    assert (job.state, job.done, job.skipped, job.summary["left"]) == ("succeeded", COUNT, 0, COUNT)
    assert await lost(node.url, 200) == []


async def test_a_store_restarted_in_the_middle_of_the_walk_leaves_no_entry_out(
    make_world: MakeWorld, broker: OwnRedis, own_redis: Callable[..., OwnRedis]
) -> None:
    node = own_redis(appendonly=True)
    world = make_world(broker_url=broker.url, cache_url=node.url)
    await fill(node.url, COUNT)

    def work() -> JobView:
        world.start_worker(queues=("embed",), concurrency=1)
        job_id = world.client.submit_embed().job_id
        world.wait_for_items(job_id, 250)
        node.stop()
        node.restart()
        return run_to_its_end(world, job_id)

    job = await asyncio.to_thread(work)

    assert (job.state, job.summary["complete"]) == ("succeeded", True)
    assert job.summary["turns"] >= 2
    assert await lost(node.url, COUNT) == []
