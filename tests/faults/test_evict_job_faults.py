"""Workers die in the middle of an eviction: the rest goes, and nothing that was stored since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import redis

from cache_management import CacheConfig, LLMCache
from cache_management.cache.values import CachedResponse
from tests.conftest import OwnRedis
from tests.waiting import wait_until
from tests.workers.harness import JobWorld

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

COUNT = 4_000
MakeWorld = Callable[..., JobWorld]


def answer(model: str, size: int = 10) -> CachedResponse:
    return CachedResponse(prompt="p", response="x" * size, model=model, timestamp=datetime.now(UTC))


async def fill(url: str, keys: list[str], model: str, **options: int) -> None:
    async with LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=10)) as cache:
        for start in range(0, len(keys), 500):
            await cache.set_many({key: answer(model, **options) for key in keys[start : start + 500]}, tags=["t"])


async def models(url: str) -> dict[str, str]:
    """Return what is stored: the model of each key."""
    async with LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=10)) as cache:
        found = await cache.get_many(await cache.list_keys())
        return {key: each.model for key, each in found.items()}


@pytest.mark.parametrize("choice", [{"pattern": "key *"}, {"tag": "t"}])
def test_a_worker_dies_in_the_middle_and_the_rest_goes_but_nothing_of_later(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis, choice: dict[str, str]
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    asyncio.run(fill(node.url, [f"key {at}" for at in range(COUNT)], "old"))
    worker = world.start_worker(queues=("evict",), concurrency=1)

    job_id = world.client.submit("evict", {**choice, "keys_per_second": 2_000}).job_id
    world.wait_for_items(job_id, 500)
    worker.kill()
    at_death = world.client.get(job_id)
    later = {f"key {at}" for at in range(0, COUNT, 40)} | {f"key of later {at}" for at in range(50)}
    asyncio.run(fill(node.url, sorted(later), "new"))
    world.reconcile_after_a_death()
    world.start_worker(queues=("evict",), concurrency=1)
    job = world.wait_for_job(job_id)

    assert not at_death.ended
    assert asyncio.run(models(node.url)) == dict.fromkeys(later, "new")
    assert job.state == "succeeded"
    assert job.done + job.skipped == job.total
    assert COUNT - 100 - 500 <= job.done <= COUNT, "at most the page of the dead worker is counted as gone"
    assert job.done + job.summary["gone"] <= COUNT
    assert world.stores.audit.verify() is None


def test_a_cancel_takes_hold_at_the_next_page_and_what_is_left_stays(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    asyncio.run(fill(node.url, [f"key {at}" for at in range(COUNT)], "old"))
    world.start_worker(queues=("evict",), concurrency=1)

    job_id = world.client.submit("evict", {"everything": True, "keys_per_second": 1_000}).job_id
    world.wait_for_items(job_id, 400)
    done_when_asked = world.client.request(job_id, "cancel").job.done
    job = world.wait_for_job(job_id)

    assert job.state == "cancelled"
    assert job.done - done_when_asked <= 2 * 500, "the page under way, and no other"
    assert len(asyncio.run(models(node.url))) == COUNT - job.done > 0


def test_a_sweep_by_policy_goes_on_after_its_worker_died_with_the_right_to_sweep(
    make_world: MakeWorld, broker: OwnRedis, node: OwnRedis
) -> None:
    world = make_world(broker_url=broker.url, cache_url=node.url)
    with redis.Redis.from_url(node.url) as client:
        client.config_set("maxmemory", 10**9)
        asyncio.run(fill(node.url, [f"key {at}" for at in range(COUNT)], "old", size=3_000))
        limit = int(client.info("memory")["used_memory"] / 0.99)
        client.config_set("maxmemory", limit)
        worker = world.start_worker(queues=("evict",), concurrency=1)

        job_id = world.client.submit("evict", {"policy": True, "keys_per_second": 200}).job_id
        world.wait_for_items(job_id, 150)
        worker.kill()
        # As if it had died a moment earlier, within a part.
        client.set("cm1:lease:evict", "the dead one", px=3_000)
        at_death = world.client.get(job_id)
        world.reconcile_after_a_death()
        world.start_worker(queues=("evict",), concurrency=1)
        job = world.wait_for_job(job_id)

        assert not at_death.ended
        assert job.state == "succeeded"
        assert client.info("memory")["used_memory"] <= 0.82 * limit
        left = sum(1 for _ in client.scan_iter(match="cm1:llm:*", count=1_000))
        assert COUNT - left - 300 <= job.done <= COUNT - left
        wait_until(lambda: not client.exists("cm1:lease:evict"))
