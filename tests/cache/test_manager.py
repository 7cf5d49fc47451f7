from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from cache_management.cache import manager as manager_module
from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import BackendUnavailable, ConfigurationError, InvalidInput
from cache_management.cache.events import Event, UnavailableEvent
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic.matcher import IndexReport, SimilarityMatcher
from cache_management.cache.values import CachedResponse
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock
from tests.waiting import eventually

QUESTION = "how do I reset my password"


def response(prompt: str = QUESTION) -> CachedResponse:
    return CachedResponse(prompt=prompt, response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))


def manager_on(backend: BreakableBackend, *, strict: bool = False, heard: list[Event] | None = None) -> CacheManager:
    cache = LLMCache(CacheConfig(strict=strict), backend=backend, listener=None if heard is None else heard.append)
    return CacheManager(cache, SimilarityMatcher(backend=backend, embedder=HashingEmbedder()))


async def test_stored_answer_is_found_exactly_and_by_meaning() -> None:
    async with manager_on(BreakableBackend(up=True)) as manager:
        await manager.set_llm_cache("key", response())

        assert await manager.get_llm_cache("key") == response()
        assert [match.key for match in await manager.find_similar("my password, how do I reset")] == ["key"]
        assert (await manager.get_stats()).total_entries == 1


async def test_manager_without_a_matcher_stores_exactly_and_says_why_it_cannot_search() -> None:
    async with CacheManager(LLMCache(backend=BreakableBackend(up=True))) as manager:
        await manager.set_llm_cache("key", response())

        assert await manager.get_llm_cache("key") == response()
        assert await manager.index(["key"]) == IndexReport(0, 0, 0)
        with pytest.raises(InvalidInput, match="give it one"):
            await manager.find_similar("anything")


async def test_keys_without_an_entry_are_passed_over() -> None:
    manager = manager_on(BreakableBackend(up=True))
    await manager.llm_cache.set("key", response())

    assert await manager.index(["key", "absent"]) == IndexReport(1, 0, 0)


async def test_store_that_is_down_leaves_entries_exact_only_with_an_event() -> None:
    heard: list[Event] = []
    manager = manager_on(BreakableBackend(), heard=heard)

    assert await manager.index(["key"]) == IndexReport(0, 0, 0)

    assert heard == [UnavailableEvent("breakable", "index", "a test broke it")]


async def test_strict_manager_raises_when_it_cannot_index() -> None:
    with pytest.raises(BackendUnavailable):
        await manager_on(BreakableBackend(), strict=True).index(["key"])


async def test_entries_without_a_vector_are_indexed_bit_by_bit() -> None:
    manager = manager_on(BreakableBackend(up=True))
    await manager.llm_cache.set_many({f"key{at}": response(f"{QUESTION} {'x' * at}") for at in range(5)})

    left = [await manager.index_missing(limit=2) for _ in range(4)]

    assert left == [3, 1, 0, 0]
    assert manager.similarity_matcher is not None
    assert await manager.similarity_matcher.size() == 5


async def test_nothing_is_missing_without_a_matcher() -> None:
    assert await CacheManager(LLMCache(backend=BreakableBackend())).index_missing(limit=5) == 0


def test_a_matcher_of_another_namespace_is_refused() -> None:
    backend = BreakableBackend(up=True)

    with pytest.raises(ConfigurationError, match="'b'"):
        CacheManager(
            LLMCache(CacheConfig(namespace="a"), backend=backend),
            SimilarityMatcher(SimilarityConfig(namespace="b"), backend=backend, embedder=HashingEmbedder()),
        )


def test_a_matcher_on_another_store_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="two stores"):
        CacheManager(
            LLMCache(CacheConfig(), backend=BreakableBackend(up=True)),
            SimilarityMatcher(backend=BreakableBackend(up=True), embedder=HashingEmbedder()),
        )


async def test_a_matcher_made_without_a_store_takes_the_caches() -> None:
    matcher = SimilarityMatcher(embedder=HashingEmbedder())
    async with CacheManager(LLMCache(CacheConfig(), backend=BreakableBackend(up=True)), matcher) as manager:
        await manager.set_llm_cache("key", response())

        assert [match.key for match in await manager.find_similar(QUESTION)] == ["key"]


async def test_a_matcher_with_entries_of_its_own_is_not_taken_over() -> None:
    matcher = SimilarityMatcher(embedder=HashingEmbedder())
    await matcher.index_entry(QUESTION, "r")

    with pytest.raises(ConfigurationError, match="entries of its own"):
        CacheManager(LLMCache(CacheConfig(), backend=BreakableBackend(up=True)), matcher)


def in_threads(*programs: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run each program on an event loop and thread of its own, all at once, and raise what they raise."""
    began = threading.Barrier(len(programs))

    def run(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
        began.wait(10)
        asyncio.run(program())

    with ThreadPoolExecutor(len(programs)) as pool:
        for done in [pool.submit(run, program) for program in programs]:
            done.result(60)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_a_manager_may_be_used_by_several_event_loops_at_a_time() -> None:
    manager = manager_on(BreakableBackend(up=True))

    def program(name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def use() -> None:
            for at in range(200):
                key = f"thread {name} word{at} of the list"
                await manager.store(key, "r")
                assert await manager.lookup(f"word{at} thread {name} list the of")
                await manager.llm_cache.delete(key)
                found = await manager.lookup(f"word{at} thread {name} list the of")
                assert found.key != key

        return use

    in_threads(program("one"), program("two"))


def test_what_one_event_loop_stores_another_one_finds() -> None:
    manager = manager_on(BreakableBackend(up=True))
    stored, looked = threading.Event(), threading.Event()

    async def store() -> None:
        await asyncio.to_thread(looked.wait, 10)
        await manager.store(QUESTION, "r")
        stored.set()

    async def look() -> None:
        assert not await manager.lookup("my password, how do I reset")
        looked.set()
        await asyncio.to_thread(stored.wait, 10)
        await eventually(lambda: manager.lookup("my password, how do I reset"))

    in_threads(store, look)


def test_one_event_loop_after_the_other_keeps_the_index() -> None:
    manager = manager_on(BreakableBackend(up=True))
    seen = []

    async def use() -> None:
        await manager.store(QUESTION, "r")
        assert await manager.lookup("my password, how do I reset")
        assert manager.similarity_matcher is not None
        seen.append(manager.similarity_matcher.index)

    for _ in range(3):
        asyncio.run(use())

    assert len(set(map(id, seen))) == 1


# Many namespaces


class Scanned(BreakableBackend):
    """Counts how often everything is read."""

    scans = 0

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        self.scans += 1
        async for key in super().scan(prefix):
            yield key


async def test_many_namespaces_keep_their_indexes() -> None:
    backend = Scanned(up=True)
    manager = manager_on(backend)
    for at in range(40):
        await manager.store(QUESTION, f"r{at}", namespace=f"n{at}")
        await manager.lookup("my password, how do I reset", namespace=f"n{at}")
    before = backend.scans

    for at in range(40):
        found = await manager.lookup("my password, how do I reset", namespace=f"n{at}")
        assert found.response is not None
        assert found.response.response == f"r{at}"

    assert backend.scans == before


async def test_a_namespace_that_gives_way_finishes_its_background_work_and_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manager_module, "_NEIGHBOURS_KEPT", 2)
    closed: list[str] = []

    async def aclose(matcher: SimilarityMatcher) -> None:
        closed.append(matcher.namespace)

    monkeypatch.setattr(SimilarityMatcher, "aclose", aclose)
    clock, backend = ManualClock(), BreakableBackend(up=True)
    cache = LLMCache(CacheConfig(stale_while_revalidate_seconds=60), backend=backend, clock=clock)
    manager = CacheManager(cache, SimilarityMatcher(backend=backend, embedder=HashingEmbedder()))
    await manager.store(QUESTION, "old", namespace="a", ttl_seconds=10)
    clock.advance(11)
    gate = asyncio.Event()

    async def compute() -> str:
        await gate.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        return "new"

    assert (await manager.get_or_compute(QUESTION, compute, namespace="a")).response == "old"
    for name in ("b", "c", "d"):
        await manager.store(QUESTION, "r", namespace=name)
    await asyncio.sleep(0)
    assert closed == ["b"], "b had nothing to wait for"
    gate.set()
    await manager.aclose()

    again = CacheManager(LLMCache(CacheConfig(namespace="a"), backend=backend, clock=clock))
    assert sorted(closed) == ["a", "b", "c", "d", "default"]
    found = await again.lookup(QUESTION)
    assert found.response is not None
    assert found.response.response == "new"


async def test_a_namespace_in_use_does_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "_NEIGHBOURS_KEPT", 1)
    manager = manager_on(BreakableBackend(up=True))
    gate, within = asyncio.Event(), asyncio.Event()

    async def compute() -> str:
        within.set()
        await gate.wait()
        return "computed"

    asked = asyncio.create_task(manager.get_or_compute(QUESTION, compute, namespace="a"))
    await within.wait()
    for name in ("b", "c"):
        await manager.store(QUESTION, "r", namespace=name)
    gate.set()

    assert (await asked).response == "computed"
    assert (await manager.lookup("my password, how do I reset", namespace="a")).kind == "semantic"
