"""The manager over answers and reasoning together: statistics, invalidation, eviction, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cache_management import (
    CacheConfig,
    CachedResponse,
    CacheManager,
    CoTStep,
    EvictionPolicy,
    LLMCache,
    MetricsCollector,
    ReasoningCache,
    ReasoningResult,
    Selection,
    SimilarityConfig,
    SimilarityMatcher,
)
from cache_management.cache.errors import ConfigurationError, InvalidInput
from cache_management.cache.eviction.lru import LruEvictor
from cache_management.cache.near_misses import load_near_misses
from cache_management.cache.usage import mark_as_read
from tests.contracts.clock import ManualClock


def answer(text: str = "r") -> CachedResponse:
    return CachedResponse(
        prompt="p", response=text, model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC), token_count=3
    )


def thoughts(problem: str = "p") -> ReasoningResult:
    steps = [CoTStep(step_number=1, thought="think")]
    return ReasoningResult(reasoning_type="cot", problem=problem, steps=steps, final_answer="4")


def manager_of_all(clock: ManualClock | None = None, *, url: str = "memory://", **more: Any) -> CacheManager:
    cache = LLMCache(CacheConfig(url=url), **({} if clock is None else {"clock": clock}))
    reasoning = ReasoningCache(cache.config, backend=cache.backend, clock=cache.clock)
    matcher = SimilarityMatcher(SimilarityConfig(model="hashing", threshold=0.5), backend=cache.backend)
    return CacheManager(cache, matcher, reasoning_cache=reasoning, **more)


@pytest.fixture
async def manager() -> AsyncIterator[CacheManager]:
    async with manager_of_all() as opened:
        yield opened


async def test_statistics_are_of_both(manager: CacheManager) -> None:
    await manager.set_llm_cache("user_1", answer())
    await manager.set_reasoning_cache("user_2", thoughts())
    await manager.get_llm_cache("user_1")
    await manager.get_reasoning_cache("user_2")
    await manager.get_reasoning_cache("absent")

    stats = await manager.get_stats()

    assert (stats.total_entries, stats.reasoning_entries) == (2, 1)
    assert (stats.hits, stats.misses, stats.stores) == (2, 1, 2)
    assert stats.hit_rate == pytest.approx(2 / 3)


async def test_a_pattern_removes_both(manager: CacheManager) -> None:
    await manager.set_llm_cache("user_1", answer())
    await manager.set_reasoning_cache("user_2", thoughts())
    await manager.set_llm_cache("other", answer())

    assert await manager.invalidate_pattern("user_*") == 2
    assert await manager.invalidate_pattern("^oth.r$", regex=True) == 1
    assert (await manager.get_stats()).total_entries == 0


async def test_what_is_old_is_removed_and_what_is_young_stays() -> None:
    clock = ManualClock()
    async with manager_of_all(clock) as manager:
        await manager.set_llm_cache("old", answer(), ttl_seconds=-1)
        await manager.set_reasoning_cache("old", thoughts(), ttl_seconds=-1)
        clock.advance(3600)
        await manager.set_llm_cache("young", answer())

        assert await manager.invalidate_older_than(seconds=1800) == 2
        assert await manager.get_llm_cache("young") is not None


async def test_all_is_removed_and_nothing_is_found_by_meaning(manager: CacheManager) -> None:
    await manager.store("how do I reset my password", "by the link")
    await manager.set_reasoning_cache("k", thoughts("a problem"))

    assert await manager.invalidate_all() == 2
    assert not (await manager.lookup("my password, how do I reset")).hit
    assert (await manager.find_reasoning("a problem")).result is None
    assert (await manager.get_stats()).total_entries == 0


async def test_another_namespace_is_left_alone(manager: CacheManager) -> None:
    await manager.store("q", "a", namespace="other")
    await manager.set_reasoning_cache("k", thoughts())

    assert await manager.invalidate_all(namespace="other") == 1
    assert (await manager.get_stats()).total_entries == 1


@pytest.mark.parametrize("seconds", [-1, float("nan"), "x", None])
async def test_an_age_that_is_none_removes_nothing(manager: CacheManager, seconds: Any) -> None:
    await manager.set_llm_cache("k", answer())

    with pytest.raises(InvalidInput):
        await manager.invalidate_older_than(seconds)

    assert (await manager.get_stats()).total_entries == 1


async def test_metrics_hear_all_parts() -> None:
    metrics = MetricsCollector()
    async with manager_of_all(metrics=metrics) as manager:
        await manager.store("how do I reset my password", "by the link")
        await manager.lookup("how do I reset my password")
        await manager.lookup("my password, how do I reset")
        await manager.lookup("how do I not reset my password")
        await manager.set_reasoning_cache("k", thoughts())
        await manager.get_reasoning_cache("k")
        await manager.store("q", "a", namespace="other")

    found = metrics.get_cache_metrics()
    text = metrics.export_prometheus()
    assert (found.hits, found.semantic_hits, found.misses, found.sets) == (
        2,
        1,
        1,
        2,
    )  # one of them makes the problem findable
    assert 'cache_misses_total{reason="vetoed"} 1.0' in text
    assert 'cache_vetoes_total{gate="polarity"} 1.0' in text
    assert "cache_reasoning_hits_total 1.0" in text


# Three entries fit. "often" is used twice and is the oldest by use: LRU drops it first, LFU and TTL keep it.
async def fill(cache: LLMCache) -> set[str]:
    await cache.set("often", answer(), ttl_seconds=1000)
    await cache.get("often")
    await cache.get("often")
    await cache.set("soon", answer(), ttl_seconds=10)
    await cache.set("once", answer(), ttl_seconds=500)
    await cache.set("new", answer(), ttl_seconds=2000)
    return set(await cache.list_keys())


@pytest.mark.parametrize("url", ["memory://", "disk"])
@pytest.mark.parametrize(
    ("policy", "gone"), [(EvictionPolicy.LRU, "often"), (EvictionPolicy.LFU, "soon"), (EvictionPolicy.TTL, "soon")]
)
async def test_the_manager_says_what_goes_first(url: str, policy: EvictionPolicy, gone: str, tmp_path: Path) -> None:
    other = EvictionPolicy.LFU if policy is EvictionPolicy.LRU else EvictionPolicy.LRU
    where = {"url": url} if url == "memory://" else {"url": f"disk://{tmp_path}"}
    cache = LLMCache(CacheConfig(max_size=3, eviction_policy=other, **where))
    async with CacheManager(llm_cache=cache, eviction_policy=policy) as manager:
        assert {"often", "soon", "once", "new"} - await fill(manager.llm_cache) == {gone}
        assert manager.llm_cache.config.eviction_policy is policy


@pytest.mark.parametrize("url", ["memory://", "disk"])
async def test_a_policy_takes_over_what_is_there(url: str, tmp_path: Path) -> None:
    where = {"url": url} if url == "memory://" else {"url": f"disk://{tmp_path}"}
    cache = LLMCache(CacheConfig(max_size=2, **where))
    await cache.set("long", answer(), ttl_seconds=1000)
    await cache.set("short", answer(), ttl_seconds=100)
    async with CacheManager(llm_cache=cache, eviction_policy=EvictionPolicy.TTL) as manager:
        await manager.llm_cache.set("new", answer(), ttl_seconds=500)

        assert set(await cache.list_keys()) == {"long", "new"}


async def test_on_redis_the_queue_of_the_policy_is_used(redis_url: str) -> None:
    cache = LLMCache(CacheConfig(url=redis_url, redis_memory_limit=10**9, namespace="policy-of-manager"))
    async with CacheManager(llm_cache=cache, eviction_policy=EvictionPolicy.TTL) as manager:
        await manager.set_llm_cache("k", answer())

        assert manager.llm_cache.config.eviction_policy is EvictionPolicy.TTL
        assert (await manager.get_stats()).total_entries == 1


@pytest.mark.parametrize("policy", ["mru", 3])
def test_a_policy_that_there_is_not_is_refused(policy: Any) -> None:
    with pytest.raises(ConfigurationError, match="eviction_policy: take"):
        CacheManager(LLMCache(CacheConfig(url="memory://")), eviction_policy=policy)


def test_a_policy_of_ones_own_is_for_memory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="in memory only"):
        CacheManager(LLMCache(CacheConfig(url=f"disk://{tmp_path}")), eviction_policy=LruEvictor)  # type: ignore[arg-type]


async def test_without_a_cache_answers_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    async with CacheManager(eviction_policy=EvictionPolicy.LRU) as manager:
        await manager.set_llm_cache("k", answer())

        assert await manager.get_llm_cache("k") == answer()
        assert manager.llm_cache.backend.name == "disk"


async def test_an_answer_says_where_it_came_from(manager: CacheManager) -> None:
    first = await manager.answer("how do I reset my password", lambda: "by the link")
    again = await manager.answer("how do I reset my password", lambda: "not asked")
    near = await manager.answer("my password, how do I reset", lambda: "not asked")

    assert [found.kind for found in (first, again, near)] == [None, "exact", "semantic"]
    assert (first.similarity, again.similarity) == (None, 1.0)
    assert near.similarity is not None
    assert near.key == again.key == first.key
    assert near.response.response == "by the link"


async def test_an_old_answer_that_stands_in_for_an_error_is_not_called_new() -> None:
    clock = ManualClock()
    cache = LLMCache(CacheConfig(url="memory://", stale_if_error_seconds=100), clock=clock)

    async def fails() -> str:
        raise RuntimeError("the model is away")

    async with CacheManager(cache) as manager:
        await manager.answer("q", lambda: "old", ttl_seconds=10)
        clock.advance(20)
        found = await manager.answer("q", fails)

    assert (found.kind, found.response.response) == ("exact", "old")
    assert found.age_seconds >= 20


async def test_what_was_refused_lately_is_told(manager: CacheManager) -> None:
    await manager.store("how do I reset my password", "by the link", namespace="tenant")
    await manager.lookup("how do I not reset my password", namespace="tenant")
    await manager.lookup("what is the weather")

    (found,) = manager.near_misses()

    assert (found.asked, found.stored) == ("how do I not reset my password", "how do I reset my password")
    assert (found.namespace, found.vetoes) == ("tenant", ("polarity",))
    assert 0.5 < found.score < 1


async def test_what_was_refused_is_not_shown_any_more_when_its_namespace_is_invalidated(manager: CacheManager) -> None:
    await manager.store("how do I reset my password", "by the link", namespace="tenant")
    await manager.lookup("how do I not reset my password", namespace="tenant")

    await manager.invalidate(Selection(everything=True), namespace="tenant", dry_run=True)
    assert manager.near_misses()
    await manager.invalidate_all(namespace="tenant")

    assert manager.near_misses() == []


async def test_what_was_refused_is_told_to_the_store_for_a_page_elsewhere(tmp_path: Path) -> None:
    url = f"disk://{tmp_path / 'shared'}"
    async with manager_of_all(url=url) as ours, LLMCache(CacheConfig(url=url)) as theirs:
        await mark_as_read(theirs.backend, theirs.clock())
        await ours.store("how do I reset my password", "by the link")
        await ours.lookup("how do I not reset my password")
        assert ours.llm_cache.usage is not None
        await ours.llm_cache.usage._tell()

        (found,) = await load_near_misses(theirs.backend, "default")
        assert (found.asked, found.vetoes) == ("how do I not reset my password", ("polarity",))
        await ours.invalidate(Selection(pattern="nothing*"))
        assert await load_near_misses(theirs.backend, "default") == []


async def test_evictions_are_those_of_entries_and_not_of_their_vectors() -> None:
    metrics = MetricsCollector()
    cache = LLMCache(CacheConfig(url="memory://", max_size=3))
    matcher = SimilarityMatcher(SimilarityConfig(model="hashing"))
    async with CacheManager(cache, matcher, metrics=metrics) as manager:
        for at in range(6):
            await manager.store(f"question number {at}", "a")

        stats = await manager.get_stats()

    assert (stats.total_entries, stats.evictions) == (3, 3)


async def test_who_hears_a_cache_twice_counts_once() -> None:
    metrics = MetricsCollector()
    cache = LLMCache(CacheConfig(url="memory://"), listener=metrics)
    CacheManager(cache, metrics=metrics)
    async with CacheManager(cache, metrics=metrics) as manager:
        await manager.lookup("q")

    assert metrics.get_cache_metrics().misses == 1


async def test_the_text_of_solved_problems_goes_with_their_tag_and_age(manager: CacheManager) -> None:
    await manager.set_reasoning_cache("k", thoughts("a secret problem"), tags=["patients"])

    assert await manager.invalidate(Selection(tag="patients")) == 1

    left = [name async for name in manager.llm_cache.backend.scan("cm1:llm:")]
    assert [name for name in left if "secret" in name] == []
