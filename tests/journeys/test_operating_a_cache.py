"""One manager over all parts, warmed, measured and emptied: examples 6 and 7 of the manual, and its remedies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from cache_management import (
    CacheBackend,
    CacheConfig,
    CachedResponse,
    CacheManager,
    CacheWarmer,
    CoTStep,
    EmbeddingModel,
    EvictionPolicy,
    LLMCache,
    MetricsCollector,
    ReasoningCache,
    ReasoningResult,
    SimilarityConfig,
    SimilarityMatcher,
)


def answer(prompt: str, text: str, tokens: int = 8) -> CachedResponse:
    moment = datetime.now()  # noqa: DTZ005 - as an application writes it
    return CachedResponse(
        prompt=prompt, response=text, model="gpt-4", timestamp=moment, token_count=tokens, metadata={}
    )


@pytest.fixture
async def manager(redis_url: str) -> AsyncIterator[CacheManager]:
    config = CacheConfig(backend=CacheBackend.REDIS, url=redis_url, ttl_seconds=3600)
    opened = CacheManager(
        llm_cache=LLMCache(config),
        reasoning_cache=ReasoningCache(config),
        similarity_matcher=SimilarityMatcher(SimilarityConfig(model="hashing", threshold=0.85)),
        eviction_policy=EvictionPolicy.LRU,
    )
    async with opened:
        yield opened


async def test_one_face_for_answers_and_reasoning(manager: CacheManager) -> None:
    steps = [CoTStep(step_number=1, thought="Sort them", confidence=0.9)]
    result = ReasoningResult(reasoning_type="cot", problem="Which is larger?", steps=steps, final_answer="The second")

    await manager.set_llm_cache("user_1", answer("Who are you?", "A cache."))
    await manager.set_reasoning_cache("user_2", result)
    await manager.set_llm_cache("other", answer("What is TTL?", "Time to live."))
    stats = await manager.get_stats()
    entries = await manager.export_entries()
    await manager.invalidate_pattern("user_*")
    left = await manager.get_stats()
    await manager.invalidate_older_than(seconds=3600)
    await manager.invalidate_all()
    empty = await manager.get_stats()
    await manager.import_entries(entries)

    assert (stats.total_entries, left.total_entries, empty.total_entries) == (3, 1, 0)
    assert f"{stats.hit_rate:.2%}" == "0.00%"
    assert await manager.get_llm_cache("user_1") is not None


async def test_a_file_of_common_questions_is_warmed(manager: CacheManager, tmp_path: Path) -> None:
    file = tmp_path / "common_queries.json"
    file.write_text(
        json.dumps(
            [
                {"prompt": "What is Rust?", "response": "A language.", "model": "gpt-4", "token_count": 20},
                {"prompt": "What is Go?", "response": "Another one.", "model": "gpt-4", "token_count": 25},
            ]
        )
    )
    warmer = CacheWarmer(cache_manager=manager, workers=4, batch_size=10)

    await warmer.warm(
        [answer(found["prompt"], found["response"], found["token_count"]) for found in json.loads(file.read_text())]
    )

    assert (await manager.get_stats()).total_entries == 2
    assert (await manager.get_llm_cache("What is Go?")) is not None


async def test_use_is_measured_by_hand_and_printed_for_prometheus(manager: CacheManager) -> None:
    metrics = MetricsCollector()

    for number in range(100):
        key = f"key_{number % 20}"
        if await manager.get_llm_cache(key):
            metrics.record_cache_hit(key)
            metrics.record_get_latency(0.5 + number % 10)
        else:
            metrics.record_cache_miss(key)
            await manager.set_llm_cache(key, answer(f"Prompt {number}", f"Response {number}"))
            metrics.record_cache_set(key, size=1024)

    found, times = metrics.get_cache_metrics(), metrics.get_performance_metrics()
    assert (found.hits, found.misses, f"{found.hit_rate:.2%}", found.size_bytes) == (80, 20, "80.00%", 20_480)
    assert times.avg_get_latency_ms == pytest.approx(5.0)
    assert times.p95_get_latency_ms == pytest.approx(9.5, rel=0.01)
    assert times.p99_get_latency_ms == pytest.approx(9.5, rel=0.01)
    assert 'cache_hits_total{kind="exact"} 80.0' in metrics.export_prometheus()
    metrics.reset()
    assert metrics.get_cache_metrics().hits == 0


async def test_the_manuals_remedies_can_be_taken() -> None:
    smaller = CacheConfig(url="memory://", max_size=1000, ttl_seconds=1800)
    on_disk = CacheConfig(backend=CacheBackend.DISK)
    faster = SimilarityConfig(model=EmbeddingModel.MINILM, cache_embeddings=True, threshold=0.90)
    wider = SimilarityConfig(model="hashing", threshold=0.75)
    matcher = SimilarityMatcher(wider)
    await matcher.index_entry("What is an index?", "A way to find things.")

    async with CacheManager(LLMCache(smaller), eviction_policy=EvictionPolicy.LRU) as manager:
        await CacheWarmer(manager).warm([answer("What is a remedy?", "A way out.")])
        assert (await manager.get_stats()).total_entries == 1

    assert await matcher.clear_index() == 1
    assert (on_disk.backend, faster.threshold) == (CacheBackend.DISK, 0.90)
