from __future__ import annotations

import asyncio
import logging

import pytest

from cache_management.cache.backends.guarded import FAILURES_TO_OPEN, Breaker, GuardedBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.llm import LLMCache
from tests.conftest import OwnRedisFactory
from tests.contracts.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(monotonic=clock)


def open_it(breaker: Breaker) -> None:
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed()


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not(breaker: Breaker) -> None:
    for _ in range(FAILURES_TO_OPEN * 3):
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"

    opened = [breaker.failed() for _ in range(FAILURES_TO_OPEN)]

    assert opened == [False] * (FAILURES_TO_OPEN - 1) + [True]
    assert not breaker.may_call()


def test_after_the_pause_one_caller_at_a_time_may_try(breaker: Breaker, clock: ManualClock) -> None:
    open_it(breaker)
    clock.advance(0.6)

    assert [breaker.may_call() for _ in range(3)] == [True, False, False]


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: ManualClock) -> None:
    open_it(breaker)
    clock.advance(0.6)
    breaker.may_call()

    assert breaker.succeeded()
    assert breaker.may_call()


def test_probes_that_fail_make_the_pause_longer_up_to_a_bound(breaker: Breaker, clock: ManualClock) -> None:
    open_it(breaker)
    pauses = []
    for _ in range(10):
        start = clock.now
        while not breaker.may_call():
            clock.advance(0.25)
        pauses.append(clock.now - start)
        breaker.failed()

    assert pauses[0] <= 0.75
    assert pauses == sorted(pauses)
    assert 29 <= pauses[-1] <= 31


def test_calls_from_before_it_opened_do_not_prolong_the_pause(breaker: Breaker, clock: ManualClock) -> None:
    open_it(breaker)
    for _ in range(100):
        breaker.failed()
    clock.advance(0.6)

    assert breaker.may_call()


def test_a_probe_that_never_comes_back_does_not_keep_it_open(breaker: Breaker, clock: ManualClock) -> None:
    open_it(breaker)
    clock.advance(0.6)
    assert breaker.may_call()
    clock.advance(0.6)

    assert breaker.may_call()


async def test_a_dead_server_is_asked_a_few_times_and_then_left_alone_with_one_line_each_way(
    own_redis: OwnRedisFactory, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_redis()
    asked = 0

    class Asked(RedisBackend):
        async def get(self, key: str):  # type: ignore[no-untyped-def]
            nonlocal asked
            asked += 1
            return await super().get(key)

    # Without usage, which is told with calls of its own when the cache is closed.
    config = CacheConfig(url=server.url, timeout_seconds=2, usage_interval_seconds=0)
    backend = GuardedBackend(Asked(config), monotonic=clock)
    cache = LLMCache(config, backend=backend)
    assert await cache.get("k") is None
    server.stop()

    with caplog.at_level(logging.WARNING, logger="cache_management"):
        for _ in range(200):
            assert await cache.get("k") is None
        assert asked == 1 + FAILURES_TO_OPEN

        server.restart()
        clock.advance(60)
        assert await cache.get("k") is None
        assert await cache.get("k") is None
    await cache.aclose()

    assert asked == 1 + FAILURES_TO_OPEN + 2
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "redis is left alone for a while",
        "redis answers again",
    ]


async def test_deleting_is_tried_in_any_state(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    config = CacheConfig(url=server.url, timeout_seconds=2)
    backend = GuardedBackend(RedisBackend(config))
    open_it(backend.breaker)

    with pytest.raises(BackendUnavailable):
        await backend.get("k")
    assert await backend.delete_many(["k"]) == 0
    await backend.aclose()


async def test_many_callers_of_a_frozen_server_all_miss_within_their_budget(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    cache = LLMCache(CacheConfig(url=server.url, timeout_seconds=0.3))
    await cache.get("k")
    server.pause()

    async with asyncio.timeout(20):
        assert set(await asyncio.gather(*(cache.get(f"k{at}") for at in range(500)))) == {None}

    server.resume()
    await cache.aclose()
