"""Example 5 of the reference, and the same cache under LLMCache, on real nodes of which one is really killed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cache_management import (
    CacheConfig,
    CachedResponse,
    DistributedCache,
    LLMCache,
    ReplicationConfig,
    ShardingStrategy,
)
from cache_management.settings import load_settings
from cache_management.wiring import open_platform
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.fixture
def servers(own_redis: OwnRedisFactory) -> list[OwnRedis]:
    return [own_redis() for _ in range(3)]


async def all_are_members(cache: DistributedCache) -> bool:
    return all(status.state == "member" for status in await cache.statuses())


async def test_example_5_with_a_node_that_is_really_killed(servers: list[OwnRedis]) -> None:
    nodes = [f"127.0.0.1:{server.port}" for server in servers]
    replication = ReplicationConfig(replicas=2, consistency_level="quorum")
    cache = DistributedCache(
        nodes=nodes, sharding_strategy=ShardingStrategy.CONSISTENT_HASH, replication_config=replication
    )
    assert sorted(cache.get_available_nodes()) == sorted(nodes)
    assert replication.replicas + 1 == 3
    keys = [f"user_{number}_data" for number in range(10)]

    for key in keys:
        assert cache.get_node_for_key(key) in nodes
        await cache.set(key, f"data_for_{key}")

    assert [await cache.get(key) for key in keys] == [f"data_for_{key}" for key in keys]
    assert {cache.get_node_for_key(key) for key in keys} <= set(nodes)

    cache.mark_node_failed(nodes[0])
    assert len(cache.get_available_nodes()) == 2
    assert all(cache.get_node_for_key(key) != nodes[0] for key in keys)
    assert await cache.get("user_0_data") == "data_for_user_0_data"
    cache.mark_node_recovered(nodes[0])

    servers[0].kill()
    assert [await cache.get(key) for key in keys] == [f"data_for_{key}" for key in keys]
    assert await cache.set("user_1_data", "new")
    servers[0].restart(empty=True)
    await eventually(lambda: all_are_members(cache))

    # What the node forgot it has again: another one may go now.
    servers[1].kill()
    assert await cache.get("user_1_data") == "new"
    assert [await cache.get(key) for key in keys[2:]] == [f"data_for_{key}" for key in keys[2:]]
    await cache.close()


async def test_answers_survive_the_loss_of_a_node(servers: list[OwnRedis]) -> None:
    nodes = [f"127.0.0.1:{server.port}" for server in servers]
    answer = CachedResponse(prompt="Who?", response="Nobody.", model="m", timestamp=datetime.now(UTC))
    async with DistributedCache(nodes) as distributed:
        cache = LLMCache(CacheConfig(backend="redis"), backend=distributed.backend)
        await cache.set("Who?", answer)

        servers[2].kill()

        found = await cache.get("Who?")
        assert found is not None
        assert found.response == "Nobody."
        assert await cache.list_keys() == ["Who?"]
        assert await cache.delete("Who?")
        assert await cache.get("Who?") is None


async def test_settings_choose_the_nodes(servers: list[OwnRedis]) -> None:
    nodes = [f"127.0.0.1:{server.port}" for server in servers]
    settings = load_settings(None, arguments={"distributed": {"enabled": True, "nodes": nodes}}).settings
    platform = open_platform(settings)

    answer = CachedResponse(prompt="p", response="r", model="m", timestamp=datetime.now(UTC))
    await platform.manager.store("p", answer)

    found = await platform.manager.lookup("p")
    assert found.hit
    assert platform.llm_cache.backend.name == "replicated"
    await platform.aclose()
