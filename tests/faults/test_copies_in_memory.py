"""Copies in memory while the server behind them is killed, emptied, frozen or cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import redis

from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.values import CachedResponse
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.waiting import eventually

pytestmark = pytest.mark.faults
KEY = "What is Python?"


def answer(text: str) -> CachedResponse:
    return CachedResponse(prompt=KEY, response=text, model="gpt-4", timestamp=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def server(own_redis: OwnRedisFactory) -> OwnRedis:
    return own_redis()


@pytest.fixture
async def reader(server: OwnRedis) -> AsyncIterator[LLMCache]:
    async with LLMCache(CacheConfig(url=server.url, near_max_size=100)) as cache:
        yield cache


@pytest.fixture
async def writer(server: OwnRedis) -> AsyncIterator[LLMCache]:
    async with LLMCache(CacheConfig(url=server.url)) as cache:
        yield cache


async def text_of(cache: LLMCache) -> str | None:
    found = await cache.get(KEY)
    return found.response if found else None


async def hold_a_copy(reader: LLMCache, writer: LLMCache, text: str) -> None:
    """Make the reader answer from memory."""
    await writer.set(KEY, answer(text))

    async def is_held() -> bool:
        return await text_of(reader) == text and reader.backend.peek("cm1:llm:default:k" + KEY) is not None

    await eventually(is_held)


async def test_a_change_elsewhere_reaches_a_copy(reader: LLMCache, writer: LLMCache) -> None:
    for text in ("old", "newer", "newest"):
        await hold_a_copy(reader, writer, text)

    await writer.delete(KEY)

    async def is_gone() -> bool:
        return await reader.get(KEY) is None

    await eventually(is_gone)


async def test_what_the_server_flushes_is_forgotten(reader: LLMCache, writer: LLMCache) -> None:
    await hold_a_copy(reader, writer, "old")
    with redis.Redis.from_url(reader.config.url or "") as client:
        client.flushall()

    async def is_gone() -> bool:
        return await reader.get(KEY) is None

    await eventually(is_gone)


async def test_a_copy_does_not_outlive_a_killed_server(reader: LLMCache, writer: LLMCache, server: OwnRedis) -> None:
    await hold_a_copy(reader, writer, "old")
    server.kill()
    server.restart(empty=True)

    async def is_gone() -> bool:
        return await reader.get(KEY) is None

    await eventually(is_gone)

    async def is_back() -> bool:
        await writer.set(KEY, answer("new"))
        return await text_of(reader) == "new"

    await eventually(is_back)


async def test_a_change_during_a_lost_connection_is_seen(reader: LLMCache, writer: LLMCache, server: OwnRedis) -> None:
    for round_number in range(10):
        await hold_a_copy(reader, writer, f"old {round_number}")
        with redis.Redis.from_url(server.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)  # cuts off reader and writer alike
            client.delete("cm1:llm:default:k" + KEY)

        async def is_gone() -> bool:
            return await reader.get(KEY) is None

        await eventually(is_gone)


async def test_a_frozen_server_vouches_for_nothing(reader: LLMCache, writer: LLMCache, server: OwnRedis) -> None:
    await hold_a_copy(reader, writer, "old")
    server.pause()
    try:

        async def is_refused() -> bool:
            return await reader.get(KEY) is None

        await eventually(is_refused)
    finally:
        server.resume()
