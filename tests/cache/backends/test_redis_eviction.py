from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheConfig, EvictionPolicy
from cache_management.cache.errors import BackendRefused, ConfigurationError
from cache_management.cache.events import Event, RemoveEvent, UnavailableEvent
from cache_management.cache.eviction import make_evictor
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse
from tests.cache.eviction.replay import replay
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.waiting import eventually

PREFIX = "cm1:llm:default:k"
HEADROOM = 8_000_000
POLICIES = ["lru", "lfu", "s3fifo", "gdsf"]


def record(size: int = 2000, *, cost: int = 0, life: float = 3600) -> Record:
    return Record(value=random.randbytes(size), expires_at=time.time() + life, version=1, cost_micro=cost)


class Nearly:
    """A server with little room, and a way to look at it."""

    def __init__(self, server: OwnRedis, *, policy: str = "noeviction", room: int = HEADROOM) -> None:
        self.url = server.url
        self.client = redis.Redis.from_url(server.url)
        self.limit = self.client.info("memory")["used_memory"] + room
        self.client.config_set("maxmemory", self.limit)
        self.client.config_set("maxmemory-policy", policy)

    @property
    def used(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def backend(self, heard: list[Event] | None = None, **options: Any) -> RedisBackend:
        config = CacheConfig(url=self.url, timeout_seconds=20, **options)
        return RedisBackend(config, listener=(heard if heard is not None else []).append)

    def names(self) -> set[str]:
        return {key.decode() for key in self.client.scan_iter(count=10_000)}

    async def is_below(self, share: float) -> bool:
        return self.used <= share * self.limit


@pytest.fixture
async def nearly(own_redis: OwnRedisFactory) -> AsyncIterator[Nearly]:
    nearly = Nearly(own_redis())
    yield nearly
    nearly.client.close()


@pytest.mark.parametrize("policy", [*POLICIES, "ttl"])
async def test_writers_together_stay_below_the_limit_and_lose_no_write(nearly: Nearly, policy: str) -> None:
    heard: list[Event] = []
    backends = [nearly.backend(heard, eviction_policy=policy) for _ in range(4)]

    async def write(number: int, backend: RedisBackend) -> None:
        for start in range(0, 3000, 20):
            await backend.put_many({f"{PREFIX}{number}-{at}": record() for at in range(start, start + 20)})
            assert nearly.used <= nearly.limit + 1_000_000  # the buffers of four connections count too

    await asyncio.gather(*(write(number, backend) for number, backend in enumerate(backends)))
    await eventually(lambda: nearly.is_below(0.9))

    async def all_are_accounted_for() -> bool:
        evicted = sum(event.count for event in heard if isinstance(event, RemoveEvent))
        return sum(name.startswith(PREFIX) for name in nearly.names()) + evicted >= 12_000

    await eventually(all_are_accounted_for)
    assert sum(name.startswith(PREFIX) for name in nearly.names()) > 1000
    assert not [event for event in heard if isinstance(event, UnavailableEvent)]
    for backend in backends:
        await backend.aclose()


async def test_a_full_server_makes_room_for_a_write(nearly: Nearly) -> None:
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}{at}": record() for at in range(1000)})
    await backend._eviction._tell()
    nearly.client.config_set("maxmemory", nearly.used - 50_000)

    await backend.put(PREFIX + "new", record())

    assert await backend.get(PREFIX + "new") is not None
    await backend.aclose()


async def test_a_server_full_of_other_things_refuses(nearly: Nearly) -> None:
    backend = nearly.backend()
    nearly.client.config_set("maxmemory", 0)
    nearly.client.set("somebody else's", b"x" * (HEADROOM // 2))
    nearly.client.config_set("maxmemory", nearly.used - 50_000)

    with pytest.raises(BackendRefused, match="OOM"):
        await backend.put(PREFIX + "new", record())

    assert nearly.client.exists("somebody else's")
    await backend.aclose()


async def test_what_nobody_noted_is_found(nearly: Nearly) -> None:
    """A process that was killed left its entries and took its notes along."""
    dead = nearly.backend()
    await dead.put_many({f"{PREFIX}{at}": record() for at in range(2500)})
    dead._eviction._notes.clear()
    await dead.aclose()
    nearly.client.delete("cm1:evict:queue", "cm1:evict:marks", "cm1:evict:state")
    heard: list[Event] = []
    backend = nearly.backend(heard)
    nearly.client.config_set("maxmemory", nearly.used + 100_000)
    nearly.limit = nearly.used + 100_000

    await backend.put(PREFIX + "new", record())

    await eventually(lambda: nearly.is_below(0.81))
    assert await backend.get(PREFIX + "new") is not None
    await backend.aclose()


async def test_expired_and_deleted_entries_leave_the_queue(nearly: Nearly) -> None:
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}short{at}": record(10, life=0.3) for at in range(200)})
    await backend.put_many({f"{PREFIX}gone{at}": record(10) for at in range(50)})

    async def is_forgotten() -> bool:
        await backend.delete_many([f"{PREFIX}gone{at}" for at in range(50)])
        await backend.get(PREFIX + "nothing")
        await backend.put(PREFIX + "stays", record(10))
        return int(nearly.client.zcard("cm1:evict:queue")) < 60 and nearly.client.exists(PREFIX + "stays") == 1

    await eventually(is_forgotten)
    await backend.aclose()


@pytest.mark.parametrize("policy", ["noeviction without a limit", "allkeys-lru"])
async def test_a_server_that_needs_no_help_is_left_alone(own_redis: OwnRedisFactory, policy: str) -> None:
    server = own_redis()
    with redis.Redis.from_url(server.url) as client:
        if policy == "allkeys-lru":
            client.config_set("maxmemory", 50_000_000)
            client.config_set("maxmemory-policy", policy)
        backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=20))
        await backend.put(PREFIX + "a", record())

        async def has_looked() -> bool:
            return backend._eviction._is_idle()

        await eventually(has_looked)
        await backend.put(PREFIX + "b", record())

        assert not client.keys("cm1:evict:*")
        await backend.aclose()


async def test_a_limit_of_ones_own_counts_where_the_server_has_none(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    with redis.Redis.from_url(server.url) as client:
        limit = client.info("memory")["used_memory"] + 2_000_000
        backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=20, redis_memory_limit=limit))

        await backend.put_many({f"{PREFIX}{at}": record() for at in range(2000)})

        async def is_bounded() -> bool:
            return bool(client.info("memory")["used_memory"] < limit)

        await eventually(is_bounded)
        await backend.aclose()


async def replay_on_redis(backend: RedisBackend, keys: list[str], *, capacity: int) -> float:
    """Do what `replay` does with an evictor, through the scripts."""
    eviction = backend._eviction
    held: set[str] = set()
    hits = 0
    for key in keys:
        name = PREFIX + key
        if name in held:
            hits += 1
            eviction.read(name)
        else:
            if len(held) == capacity:
                await eviction._tell()
                await eviction._remove(1)
                held = {each.decode() for each in await backend._node.call("KEYS", PREFIX + "*")}
            await backend._node.call("SET", name, "x", "EX", 3600)
            eviction.stored(name, Record(value=b"x", expires_at=None, version=1), 1)
            held.add(name)
        await eviction._tell()
    return hits / len(keys)


@pytest.mark.parametrize("policy", ["lru", "lfu", "s3fifo", "gdsf"])
async def test_the_scripts_keep_to_the_rules_of_the_evictors(redis_url: str, policy: str) -> None:
    chance = random.Random(7)
    keys = [str(int(chance.paretovariate(0.7))) for _ in range(3000)]
    expected = replay(make_evictor(policy), keys, capacity=50).hits
    backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=20, eviction_policy=policy))
    backend._eviction._work = _nothing  # type: ignore[method-assign]

    found = await replay_on_redis(backend, keys, capacity=50)

    backend._eviction._notes.clear()
    await backend.aclose()
    assert found == pytest.approx(expected, abs=0.02)


async def _nothing() -> None:
    return None


async def test_gdsf_keeps_what_is_dear_and_ttl_what_lasts(redis_url: str) -> None:
    for policy, kept in (("gdsf", "dear"), ("ttl", "lasting")):
        backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=20, eviction_policy=policy))
        backend._eviction._work = _nothing  # type: ignore[method-assign]
        records = {
            "dear": record(1000, cost=90_000, life=60),
            "cheap": record(1000, cost=10, life=600),
            "lasting": record(1000, cost=20, life=6000),
        }
        await backend.put_many({PREFIX + name: each for name, each in records.items()})
        await backend._eviction._tell()

        await backend._eviction._remove(2)

        assert await backend.get_many([PREFIX + name for name in records]) == {PREFIX + kept: records[kept]} or (
            await backend.get(PREFIX + kept) is not None
        )
        await backend.delete_many([PREFIX + name for name in records])
        await backend._eviction._tell()
        await backend.aclose()


async def test_an_app_goes_on_writing_for_ever(nearly: Nearly) -> None:
    cache = LLMCache(CacheConfig(url=nearly.url, timeout_seconds=20, strict=True, eviction_policy="auto"))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for at in range(6000):
        text = "x" * 3000
        await cache.set(f"{at}", CachedResponse(prompt="q", response=text, model="m", timestamp=moment))

    assert await cache.get("5999") is not None
    assert (await cache.get_stats()).evictions > 1000
    await cache.aclose()


def test_watermarks_and_policies_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="below eviction_high_watermark"):
        CacheConfig(url="redis://localhost", eviction_high_watermark=0.5, eviction_low_watermark=0.6)
    with pytest.raises(ConfigurationError, match="your own works with backend: memory"):
        CacheConfig(url="redis://localhost", eviction_policy="my.module:Policy")
    assert CacheConfig(url="redis://localhost", eviction_policy="gdsf").eviction_policy is EvictionPolicy.GDSF
