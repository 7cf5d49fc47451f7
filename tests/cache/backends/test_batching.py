from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
import redis

from cache_management.cache.backends.base import Backend, Leases, Tags
from cache_management.cache.backends.batching import BatchingBackend
from cache_management.cache.backends.guarded import GuardedBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.records import Record
from tests.cache.backends.test_redis import PATIENT_SECONDS, TestRedisBackend
from tests.contracts.coordination import LeasesContract, TagsContract


class Counting(RedisBackend):
    """Counts how reads reach the server, and fails for one key."""

    def __init__(self, url: str) -> None:
        super().__init__(CacheConfig(url=url, timeout_seconds=PATIENT_SECONDS))
        self.calls: list[int] = []

    async def get(self, key: str) -> Record | None:
        self.calls.append(1)
        return await super().get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        self.calls.append(len(keys))
        if "poison" in keys:
            raise BackendUnavailable("redis", "a test broke it")
        return await super().get_many(keys)


class TestBatchingOverRedis(TestRedisBackend):
    async def make(self) -> Backend:
        inner = RedisBackend(CacheConfig(url=self.url, timeout_seconds=PATIENT_SECONDS), clock=self.clock)
        return GuardedBackend(BatchingBackend(inner))


class TestLeasesThroughWrappers(LeasesContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_leases(self) -> Leases:
        return GuardedBackend(BatchingBackend(RedisBackend(CacheConfig(url=self.url, timeout_seconds=20))))

    async def expire(self, name: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.delete(name)


class TestTagsThroughWrappers(TagsContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_tags(self) -> Tags:
        inner = RedisBackend(CacheConfig(url=self.url, timeout_seconds=20), clock=self.clock)
        return GuardedBackend(BatchingBackend(inner))


@pytest.fixture
async def inner(redis_url: str) -> Counting:
    return Counting(redis_url)


async def test_reads_of_one_turn_travel_together(inner: Counting) -> None:
    backend = BatchingBackend(inner)

    await asyncio.gather(*(backend.get(f"k{at}") for at in range(100)))
    await backend.aclose()

    assert inner.calls == [1, 99]


async def test_a_lone_read_goes_alone(inner: Counting) -> None:
    backend = BatchingBackend(inner)

    for _ in range(3):
        await backend.get("k")
    await backend.aclose()

    assert inner.calls == [1, 1, 1]


async def test_batches_are_bounded(inner: Counting) -> None:
    backend = BatchingBackend(inner)

    await asyncio.gather(*(backend.get(f"k{at}") for at in range(500)))
    await backend.aclose()

    assert inner.calls == [1, 200, 200, 99]


async def test_equal_keys_are_read_once(inner: Counting) -> None:
    backend = BatchingBackend(inner)

    await asyncio.gather(*(backend.get("k") for _ in range(50)))
    await backend.aclose()

    assert inner.calls == [1, 1]


async def test_a_failure_reaches_the_callers_of_its_batch_only(inner: Counting) -> None:
    backend = BatchingBackend(inner)
    keys = ["first", "poison", *(f"k{at}" for at in range(300))]

    found = await asyncio.gather(*(backend.get(key) for key in keys), return_exceptions=True)
    await backend.aclose()

    failed = [isinstance(each, BackendUnavailable) for each in found]
    assert failed[:3] == [False, True, True]
    assert sum(failed) == 200


async def test_a_cancelled_caller_leaves_the_others_alone(inner: Counting) -> None:
    backend = BatchingBackend(inner)
    callers = [asyncio.create_task(backend.get("k")) for _ in range(5)]
    await asyncio.sleep(0)

    callers[2].cancel()
    found = await asyncio.gather(*callers, return_exceptions=True)
    await backend.aclose()

    assert [isinstance(each, asyncio.CancelledError) for each in found] == [False, False, True, False, False]


async def test_a_read_on_another_loop_leaves_those_who_wait_alone() -> None:
    backend = BatchingBackend(MemoryBackend(max_size=10))
    await backend.put("k", Record(value=b"x", expires_at=None, version=1))

    def read_elsewhere() -> None:
        thread = threading.Thread(target=lambda: asyncio.run(backend.get("k")))
        thread.start()
        thread.join()

    callers = [asyncio.create_task(backend.get("k")) for _ in range(3)]
    asyncio.get_running_loop().call_soon(read_elsewhere)  # after the callers, before their turn ends

    async with asyncio.timeout(5):
        found = await asyncio.gather(*callers)
    assert [each is not None and each.value for each in found] == [b"x"] * 3


def test_loops_that_were_stopped_within_a_turn_are_forgotten() -> None:
    backend = BatchingBackend(MemoryBackend(max_size=10))

    for _ in range(100):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(stopped_within_a_turn(backend))
        loop.close()

    assert len(backend._turns) == 1


async def stopped_within_a_turn(backend: BatchingBackend) -> None:
    asyncio.get_running_loop().stop()
    await backend.get("k")
