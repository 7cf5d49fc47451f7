"""What the levels "one" and "all" promise, and what they do not, on nodes that are hurt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from cache_management import CacheConfig, DistributedCache, ReplicationConfig
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import BackendUnavailable, QuorumNotReached
from tests.cache.cluster.copies import copies_on
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.faults.cluster.proxy import Board, Mode
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


class Open:
    """Three nodes, and caches on them that end with the test."""

    def __init__(self, servers: list[OwnRedis], board: Board, stack: AsyncExitStack) -> None:
        self.servers = servers
        self.nodes = [f"127.0.0.1:{server.port}" for server in servers]
        self.wires = [board.wire(server.port) for server in servers]
        self._stack = stack

    async def cache(self, level: Any) -> DistributedCache:
        """Open a cache; it is connected when this returns."""
        cache = DistributedCache(
            [wire.address for wire in self.wires],
            replication_config=ReplicationConfig(replicas=2, consistency_level=level),
            config=CacheConfig(backend=CacheBackend.REDIS, strict=True, timeout_seconds=1.0),
        )
        await self._stack.enter_async_context(cache)

        async def is_connected() -> bool:
            with suppress(BackendUnavailable):
                return bool(await cache.statuses())
            return False

        await eventually(is_connected, 30)
        return cache


@pytest.fixture
async def world(own_redis: OwnRedisFactory) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:
        board = Board()
        stack.callback(board.close)
        yield Open([own_redis() for _ in range(3)], board, stack)


async def test_one_serves_with_a_single_node_and_a_delete_still_needs_a_majority(world: Open) -> None:
    cache = await world.cache("one")
    await cache.set("k", "v")

    async def is_everywhere() -> bool:  # the first answer is enough for "one", the others come after it
        return all(copies_on(node) for node in world.nodes)

    await eventually(is_everywhere)
    for server in world.servers[:2]:
        server.kill()

    assert await cache.get("k") == "v"
    assert await cache.set("other", "w")
    assert await cache.get("other") == "w"
    with pytest.raises(QuorumNotReached):
        await cache.delete("k")


async def test_one_may_lose_with_a_node_what_it_acknowledged(world: Open) -> None:
    cache = await world.cache("one")
    for wire in world.wires[1:]:
        wire.set(Mode.RESET)
    assert await cache.set("k", "v")

    world.servers[0].kill()
    for wire in world.wires[1:]:
        wire.heal(deliver=False)

    async def is_lost() -> bool:
        with suppress(QuorumNotReached):
            return await cache.get("k") is None
        return False

    await eventually(is_lost)


async def test_all_has_every_copy_when_it_acknowledges_and_refuses_while_a_node_is_away(world: Open) -> None:
    cache = await world.cache("all")
    for number in range(50):
        await cache.set(f"k{number}", number)
        held = [copies_on(node) for node in world.nodes] if number % 10 == 0 else [{}]
        assert all(each == held[0] for each in held)

    world.servers[2].kill()

    with pytest.raises(QuorumNotReached):
        await cache.set("k0", "new")
    with pytest.raises(QuorumNotReached):
        await cache.get("k1")
    with pytest.raises(QuorumNotReached):
        await cache.delete("k2")
