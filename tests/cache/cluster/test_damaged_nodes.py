"""What stands on one node and was not written by this program: a miss, a repair or a clear error, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from cache_management import CacheConfig, DistributedCache, ReplicationConfig
from cache_management.cache.cluster.node import PASSES, Node
from cache_management.cache.cluster.repair import Repair, lasting_differences
from cache_management.cache.cluster.syncing import Syncing
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import BackendUnavailable
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.waiting import eventually

CONFIG = CacheConfig(backend=CacheBackend.REDIS, strict=True, timeout_seconds=1.0)
KEY = "e:cm1:dst:default:kk"
TAG, STREAM, LEASE = "t:a tag", "j:a stream", "l:a lease"
Damage = Callable[[Any], object]


def garbage(stored: bytes) -> Damage:
    return lambda node: node.set(KEY, stored)


def of_another_type(*names: str) -> Damage:
    def damage(node: Any) -> None:
        for name in names:
            node.delete(name)
            node.set(name, "word") if name == PASSES else node.hset(name, "field", "word")

    return damage


def from_the_far_future(node: Any) -> None:
    node.set(KEY, b"f" * 24 + (node.get(KEY) or b"")[24:])


DAMAGES: dict[str, Damage] = {
    "bytes": garbage(b"\xff\x00random\r\n" * 9),
    "short": garbage(b"z"),
    "empty": garbage(b""),
    "text that is larger than every version": garbage(b"z" * 24 + b"v" + b"0" * 14 + b"rest"),
    "a head with a moment that is none": garbage(b"0" * 23 + b"1v" + b"x" * 14),
    "a head from the far future": from_the_far_future,
    "gone": lambda node: node.delete(KEY),
    "another type": of_another_type(KEY),
    "a tag of another type": of_another_type(TAG),
    "a stream of another type": of_another_type(STREAM),
    "a lease of another type": of_another_type(LEASE, f"{LEASE}:token"),
    "a lease with a token that is none": lambda node: node.set(f"{LEASE}:token", b"z" * 24),
    "an entry in a stream that is no note": lambda node: node.xadd(STREAM, {"a": "b"}),
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
    "promise that is larger than every token": lambda node: node.set("cluster:promise", b"f" * 24),
    "promise of another type": of_another_type("cluster:promise"),
    "floor": lambda node: node.set("cluster:floor", b"\xff"),
    "floor from the far future": lambda node: node.set("cluster:floor", b"f" * 24),
    "floor of another type": of_another_type("cluster:floor"),
    "digests": lambda node: node.hset(
        "cluster:digests", mapping={**dict.fromkeys(range(16384), "x"), "words": "x", "99999": "1"}
    ),
    "digests that are gone": lambda node: node.delete("cluster:digests"),
    "digests of another type": lambda node: (node.delete("cluster:digests"), node.set("cluster:digests", b"\xff")),
    "passes": lambda node: node.hset("cluster:passes", mapping=dict.fromkeys(node.hgetall("cluster:passes"), "x")),
    "passes of another type": of_another_type(PASSES),
    "collected of another type": of_another_type("cluster:collected"),
    "collected": lambda node: node.set("cluster:collected", b"x"),
    "came in of another type": of_another_type("cluster:came-in"),
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
                await eventually(lambda: _all_count(cache), 10)
                await eventually(lambda: _is_level(cache), 10)
            except Exception as exc:
                exc.add_note(f"damaged: {name}")
                raise


@pytest.mark.parametrize(
    "name",
    [
        "a head with a moment that is none",
        "a foreign set of tags",
        "table cut short",
        "floor of another type",
        "a tag of another type",
    ],
)
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


async def _is_level(cache: DistributedCache) -> bool:
    await cache.repair()
    return not (await lasting_differences(Repair(cache.backend.membership, listener=cache.tell))).slots


async def _all_is_well(cache: DistributedCache) -> None:
    backend = cache.backend
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
    await backend.add_tags({"a tag": {"cm1:dst:default:kk": None}})
    assert await backend.tagged("a tag") == ["cm1:dst:default:kk"]
    before = await backend.tail("a stream")
    await backend.append("a stream", [b"a note"])
    assert (await backend.read_after("a stream", before, limit=10))[0][-1:] == [b"a note"]
    assert await backend.acquire("a lease", owner="me", ttl_seconds=60)
    assert await backend.renew("a lease", owner="me", ttl_seconds=60)
    assert await backend.release("a lease", owner="me")


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
