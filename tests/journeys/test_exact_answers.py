"""Keep a model's answers under plain keys, on Redis."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit

import pytest

from cache_management import CacheBackend, CacheConfig, CachedResponse, CacheManager, CacheWarmer, LLMCache


@pytest.fixture
def config(redis_url: str) -> CacheConfig:
    port = urlsplit(redis_url).port
    return CacheConfig(
        backend=CacheBackend.REDIS,
        redis_host="127.0.0.1",
        redis_port=port,
        ttl_seconds=3600,
        max_size=10000,
        timeout_seconds=5,
    )


async def test_first_answer_stored_and_read(config: CacheConfig) -> None:
    cache = LLMCache(config)
    answer = CachedResponse(
        prompt="Which planet is the largest?",
        response="Jupiter is the largest planet of the solar system.",
        model="gpt-4",
        timestamp=datetime.now(),  # noqa: DTZ005 - as an application writes it
        token_count=9,
        metadata={"user": "alice"},
    )

    await cache.set("largest_planet", answer)
    cached = await cache.get("largest_planet")

    assert cached is not None
    assert cached.response == "Jupiter is the largest planet of the solar system."
    assert cached.metadata == {"user": "alice"}
    await cache.close()


async def test_model_is_asked_once_and_the_second_request_is_a_hit(config: CacheConfig) -> None:
    cache = LLMCache(config)
    asked = []

    async def answer(prompt: str) -> str:
        if cached := await cache.get(prompt):
            return cached.response
        asked.append(prompt)
        text = "Each number is the sum of the two before it."
        await cache.set(
            prompt,
            CachedResponse(
                prompt=prompt,
                response=text,
                model="gpt-4",
                timestamp=datetime.now(),  # noqa: DTZ005 - as an application writes it
                token_count=12,
                metadata={"elapsed_time": 0.8},
            ),
        )
        return text

    first = await answer("How do Fibonacci numbers go on?")
    second = await answer("How do Fibonacci numbers go on?")

    assert first == second
    assert asked == ["How do Fibonacci numbers go on?"]
    await cache.close()


async def test_keys_are_listed_checked_and_deleted(config: CacheConfig) -> None:
    cache = LLMCache(config)
    for key in ("user_123_name", "user_123_city", "user_456_name"):
        answer = CachedResponse(prompt=key, response="…", model="gpt-4", timestamp=datetime.now(), token_count=1)  # noqa: DTZ005
        await cache.set(key, answer, ttl_seconds=7200)

    assert await cache.exists("user_123_city")
    assert await cache.list_keys() == ["user_123_city", "user_123_name", "user_456_name"]
    assert await cache.delete("user_123_city")
    assert await cache.delete_pattern("user_123_*") == 1
    assert await cache.list_keys() == ["user_456_name"]
    await cache.close()


async def test_common_questions_are_warmed_before_anybody_asks(config: CacheConfig) -> None:
    cache = LLMCache(config)
    manager = CacheManager(llm_cache=cache)
    warmer = CacheWarmer(cache_manager=manager, workers=4, batch_size=10)

    await warmer.warm(
        CachedResponse(
            prompt=f"What is {at} squared?",
            response=str(at * at),
            model="gpt-4",
            timestamp=datetime.now(),  # noqa: DTZ005 - as an application writes it
            token_count=3,
            metadata={},
        )
        for at in range(25)
    )

    stats = await manager.get_stats()
    assert stats.total_entries == 25
    found = await cache.get("What is 7 squared?")
    assert found is not None
    assert found.response == "49"
    await cache.close()
