"""A worker dies in the middle of a repair: the next one goes on, and the nodes are level."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cache_management import CacheConfig, DistributedCache, ReplicationConfig
from tests.cache.cluster.copies import are_level, copies_on, lose_copies
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.workers.harness import JobWorld

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

COUNT = 3_000
LOST = 2_000


async def fill(nodes: list[str], *, lose_on: str) -> None:
    config = CacheConfig(url="redis://unused", strict=True, timeout_seconds=10)
    async with DistributedCache(nodes, replication_config=ReplicationConfig(replicas=2), config=config) as cache:
        await cache.set_many({f"key {at}": "x" * 50 for at in range(COUNT)})
        await cache.backend.keeper.aclose()
        await lose_copies(cache.backend.membership, lose_on, LOST)


def test_a_worker_dies_in_the_middle_of_a_repair_and_the_next_one_goes_on(
    make_world: Callable[..., JobWorld], broker: OwnRedis, own_redis: OwnRedisFactory
) -> None:
    nodes = [f"127.0.0.1:{own_redis().port}" for _ in range(3)]
    world = make_world(broker_url=broker.url, nodes=nodes)
    asyncio.run(fill(nodes, lose_on=nodes[1]))
    worker = world.start_worker(queues=("repair",), concurrency=1)

    job_id = world.client.submit("repair", {"keys_per_second": 1_000}).job_id
    world.wait_for_items(job_id, 600)
    worker.kill()
    at_death: Any = world.client.get(job_id)
    held_at_death = len(copies_on(nodes[1]))
    world.reconcile_after_a_death()
    world.start_worker(queues=("repair",), concurrency=1)
    job = world.wait_for_job(job_id)

    assert not at_death.ended
    assert COUNT - LOST < held_at_death < COUNT
    assert [len(copies_on(node)) for node in nodes] == [COUNT] * 3
    assert are_level(nodes)
    assert job.state == "succeeded"
    assert job.done == job.total == job.summary["looked_at"] >= job.summary["copied"]
    # A step that died before it could say so is not counted, as copied or as looked at; nothing is counted twice.
    assert at_death.summary["copied"] < job.summary["copied"] <= LOST
    assert job.summary["copied"] >= LOST - 1_000
    assert world.stores.audit.verify() is None
    actions = [row.action for row in world.stores.audit.tail(100, job_id=job_id)]
    assert actions[0] == "job.submit"
    assert actions[-1] == "job.succeeded"
