"""Removing entries by key, age, tag and model, on every backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cache_management.cache.backends.base import Backend
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import InvalidInput
from cache_management.cache.invalidation import Selection
from cache_management.cache.llm import LLMCache
from cache_management.cache.values import CachedResponse
from tests.contracts.clock import ManualClock

LONG = "a long prompt " * 40


def answer(model: str = "gpt-4") -> CachedResponse:
    return CachedResponse(prompt="p", response="r", model=model, timestamp=datetime.now(UTC))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "disk", "redis"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[LLMCache]:
    backend: Backend
    if request.param == "memory":
        backend = MemoryBackend(max_size=1000, clock=clock)
    elif request.param == "disk":
        backend = DiskBackend(tmp_path, max_size=1000, size_limit_bytes=10**9, timeout_seconds=5, clock=clock)
    else:
        url = request.getfixturevalue("redis_url")
        backend = RedisBackend(CacheConfig(url=url, timeout_seconds=20), clock=clock)
    cache = LLMCache(CacheConfig(), backend=backend, clock=clock)
    yield cache
    await cache.aclose()


async def fill(cache: LLMCache, clock: ManualClock) -> None:
    await cache.set("user_1_a", answer(), tags=["news", "user 1"])
    await cache.set("user_1_b", answer("claude"), tags=["news"])
    clock.advance(100)
    await cache.set("user_2_a", answer())
    await cache.set(LONG, answer("claude"), tags=["user 1"])


@pytest.mark.parametrize(
    ("selection", "goes"),
    [
        (Selection(pattern="user_1_*"), {"user_1_a", "user_1_b"}),
        (Selection(pattern="*prompt*"), {LONG}),
        (Selection(regex=r"_\d_a$"), {"user_1_a", "user_2_a"}),
        (Selection(regex=r"^a long"), {LONG}),
        (Selection(older_than_seconds=50), {"user_1_a", "user_1_b"}),
        (Selection(tag="news"), {"user_1_a", "user_1_b"}),
        (Selection(tag="user 1"), {"user_1_a", LONG}),
        (Selection(model="claude"), {"user_1_b", LONG}),
        (Selection(model="claude", older_than_seconds=50), {"user_1_b"}),
        (Selection(tag="news", pattern="*_b"), {"user_1_b"}),
        (Selection(tag="unknown"), set()),
        (Selection(everything=True), {"user_1_a", "user_1_b", "user_2_a", LONG}),
    ],
)
async def test_just_what_is_selected_goes(
    cache: LLMCache, clock: ManualClock, selection: Selection, goes: set[str]
) -> None:
    await fill(cache, clock)
    everything = set(await cache.list_keys())

    assert await cache.invalidate(selection, dry_run=True) == len(goes)
    assert set(await cache.list_keys()) == everything, "a dry run removes nothing"
    assert await cache.invalidate(selection) == len(goes)

    assert set(await cache.list_keys()) == everything - goes


async def test_an_entry_overwritten_without_its_tag_stays(cache: LLMCache) -> None:
    await cache.set("k", answer(), tags=["news"])
    await cache.set("k", answer())

    assert await cache.invalidate(Selection(tag="news")) == 0
    assert await cache.exists("k")


async def test_tags_of_another_namespace_are_others(cache: LLMCache) -> None:
    other = LLMCache(CacheConfig(namespace="other"), backend=cache.backend)
    await cache.set("k", answer(), tags=["news"])
    await other.set("k", answer(), tags=["news"])

    assert await other.invalidate(Selection(tag="news")) == 1
    assert await cache.exists("k")


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection(), "say what shall go"),
        (Selection(everything=True, tag="x"), "say what shall go"),
        (Selection(regex="("), "no regular expression"),
        (Selection(older_than_seconds=-1), "0 or more"),
        (Selection(older_than_seconds=float("nan")), "0 or more"),
    ],
)
async def test_a_selection_that_says_nothing_or_nonsense_is_an_error(selection: Selection, says: str) -> None:
    cache = LLMCache(CacheConfig(url="memory://"))

    with pytest.raises(InvalidInput, match=says):
        await cache.invalidate(selection)


@pytest.mark.timeout(30)
async def test_a_regex_that_takes_for_ever_is_stopped_and_nothing_goes() -> None:
    cache = LLMCache(CacheConfig(url="memory://"))
    await cache.set("a" * 5000 + "!", answer())

    with pytest.raises(InvalidInput, match="takes too long"):
        await cache.invalidate(Selection(regex=r"^(([a-z])+.)+[A-Z]([a-z])+$"))

    assert await cache.exists("a" * 5000 + "!")


@pytest.mark.timeout(30)
async def test_all_keys_together_have_one_second_of_a_regex() -> None:
    cache = LLMCache(CacheConfig(url="memory://"))
    slow_keys = ["a" * length + "b" * (at + 1) for at in range(300) for length in (14, 18)]
    await cache.set_many(dict.fromkeys(["aa", *slow_keys], answer()))
    started = time.perf_counter()

    with pytest.raises(InvalidInput, match=r"takes too long.*nothing was removed.*shell glob"):
        await cache.invalidate(Selection(regex="^(a|a)*$"))

    assert time.perf_counter() - started < 5
    assert len(await cache.list_keys()) == 601


@pytest.mark.timeout(30)
async def test_a_slow_regex_lets_other_tasks_run() -> None:
    cache = LLMCache(CacheConfig(url="memory://"))
    await cache.set("a" * 40 + "!", answer())
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    other = asyncio.create_task(work())
    with pytest.raises(InvalidInput):
        await cache.invalidate(Selection(regex="^(a|a)*$"))
    other.cancel()

    assert turns > 10
