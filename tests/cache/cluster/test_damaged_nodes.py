"""What stands on one node and was not written by this program: a miss, a repair or a clear error, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from cache_management import CacheConfig, DistributedCache, ReplicationConfig
from cache_management.cache.cluster.node import Node
from cache_management.cache.cluster.syncing import Syncing
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import BackendUnavailable
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.waiting import eventually

CONFIG = CacheConfig(backend=CacheBackend.REDIS, strict=True, timeout_seconds=1.0)
KEY = "e:cm1:dst:default:kk"
Damage = Callable[[Any], object]


def garbage(stored: bytes) -> Damage:
    return lambda node: node.set(KEY, stored)


def of_another_type(name: str) -> Damage:
    def damage(node: Any) -> None:
        node.delete(name)
        node.hset(name, "field", "word")

    return damage


DAMAGES: dict[str, Damage] = {
    "bytes": garbage(b"\xff\x00random\r\n" * 9),
    "short": garbage(b"z"),
    "empty": garbage(b""),
    "text that is larger than every version": garbage(b"z" * 24 + b"v" + b"0" * 14 + b"rest"),
    "a head with a moment that is none": garbage(b"0" * 23 + b"1v" + b"x" * 14),
    "another type": of_another_type(KEY),
    "a key that is no text": lambda node: node.set(b"e:\xff\xfe", b"x"),
    "a foreign entry": lambda node: node.set("e:foreign", b"x"),
    "a foreign set of tags": lambda node: node.set("t:foreign", b"x"),
    "a foreign journal": lambda node: node.set("j:foreign", b"x"),
    "a foreign journal of other fields": lambda node: node.xadd("j:other", {"a": "b"}),
    "marker": lambda node: node.set("cluster:member", b"\xff\x00 x y z\r\n"),
    "marker of another type": of_another_type("cluster:member"),
    "table": lambda node: node.set("cluster:table", b"\xff" * 99),
    "table cut short": lambda node: node.set("cluster:table", node.get("cluster:table")[:-9]),
    "promise": lambda node: node.set("cluster:promise", b"\xff"),
    "floor": lambda node: node.set("cluster:floor", b"\xff"),
    "digests": lambda node: node.hset(
        "cluster:digests", mapping={**dict.fromkeys(range(16384), "x"), "words": "x", "99999": "1"}
    ),
    "digests of another type": lambda node: (node.delete("cluster:digests"), node.set("cluster:digests", b"\xff")),
    "passes": lambda node: node.hset("cluster:passes", mapping=dict.fromkeys(node.hgetall("cluster:passes"), "x")),
    "collected": lambda node: node.set("cluster:collected", b"x"),
    "came in": lambda node: node.set("cluster:came-in", b"x"),
}


def cache_of(servers: list[OwnRedis]) -> DistributedCache:
    return DistributedCache(
        [f"127.0.0.1:{server.port}" for server in servers],
        replication_config=ReplicationConfig(replicas=2, max_outage_seconds=3600),
        config=CONFIG,
    )


@pytest.mark.parametrize("place", [0, 1])
async def test_damage_on_one_node_is_borne(own_redis: OwnRedisFactory, place: int) -> None:
    servers = [own_redis() for _ in range(3)]
    async with cache_of(servers) as cache:
        await cache.set("k", "v")
        await cache.set("other", "v")
        for name, damage in DAMAGES.items():
            await cache.repair()
            with Redis.from_url(servers[place].url) as node:
                damage(node)
            try:
                await _all_is_well(cache)
            except Exception as exc:
                exc.add_note(f"damaged: {name}")
                raise
            await eventually(lambda: _all_count(cache), 10)


@pytest.mark.parametrize("name", ["a head with a moment that is none", "a foreign set of tags", "table cut short"])
async def test_a_damaged_node_brings_up_another_one(own_redis: OwnRedisFactory, name: str) -> None:
    servers = [own_redis() for _ in range(3)]
    async with cache_of(servers) as cache:
        await cache.set("k", "v")
        await cache.set("other", "v")
        await cache.repair()
    with Redis.from_url(servers[0].url) as node:
        DAMAGES[name](node)
    async with cache_of(servers) as cache:
        await _all_is_well(cache)
        await eventually(lambda: _all_count(cache), 10)
        servers[2].kill()
        servers[2].restart(empty=True)
        await eventually(lambda: _all_count(cache), 10)
        await _all_is_well(cache)


async def _all_count(cache: DistributedCache) -> bool:
    try:
        return all(each.state == "member" for each in await cache.statuses())
    except BackendUnavailable:
        return False


async def _all_is_well(cache: DistributedCache) -> None:
    assert await cache.get("k") == "v"
    assert await cache.get_many(["k", "other"]) == {"k": "v", "other": "v"}
    assert await cache.exists("k") is True
    assert [key async for key in cache.backend.scan("cm1:dst:")]
    await cache.repair()
    assert await cache.set("new", time.time())
    assert await cache.delete("new") is True
    assert await cache.get("new") is None
    assert await cache.set("k", "w")
    assert await cache.get("k") == "w"
    assert await cache.set("k", "v")


async def test_a_node_that_counts_again_is_not_emptied_by_one_who_looked_before(own_redis: OwnRedisFactory) -> None:
    servers = [own_redis() for _ in range(3)]
    async with cache_of(servers) as slow, cache_of(servers) as quick:
        await slow.set("k", "v")
        await quick.get("k")
        await slow.backend.keeper.aclose()
        membership = slow.backend.membership
        node = membership.nodes()[0]
        server = next(each for each in servers if str(each.port) in node.address)

        seen = []

        class StandsStill(Syncing):
            async def _is_out_of_date(self, node: Node, peers: list[Node], *, is_known: bool) -> bool:
                must = await super()._is_out_of_date(node, peers, is_known=is_known)
                await eventually(lambda: _all_count(quick), 10)
                seen.append(server.command("GET", "cluster:member"))
                return must

        server.command("SET", "cluster:member", "nothing that can be read")
        await membership.refresh()
        assert node.state == "unknown"
        assert not await StandsStill(membership, listener=lambda _: None).bring_up(node)

        assert server.command("GET", "cluster:member") == seen[0]  # what it acknowledged since counts
