"""The caches without asyncio."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from cache_management import CacheConfig, CachedResponse
from cache_management.cache import llm
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.invalidation import Selection
from cache_management.sync import CacheManager, LLMCache, SimilarityMatcher, run

ANSWER = CachedResponse(prompt="q", response="a", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC))


def test_entries_are_set_got_and_removed_without_a_loop() -> None:
    with LLMCache(CacheConfig(url="memory://")) as cache:
        cache.set("k", ANSWER)

        assert cache.get("k") == ANSWER
        assert cache.list_keys() == ["k"]
        assert cache.invalidate(Selection(pattern="*")) == 1
        assert cache.get("k") is None
        assert cache.stats.misses == 1


def test_get_or_compute_takes_a_plain_function() -> None:
    with LLMCache(CacheConfig(url="memory://")) as cache:
        assert cache.get_or_compute("q", lambda: "computed").response == "computed"
        assert cache.get_or_compute("q", lambda: "again").response == "computed"


def test_many_threads_cause_one_computation() -> None:
    calls = []
    gate = threading.Event()

    def compute() -> str:
        calls.append(1)
        gate.wait(10)
        return "computed"

    with LLMCache(CacheConfig(url="memory://")) as cache:
        answers: list[str] = []
        threads = [
            threading.Thread(target=lambda: answers.append(cache.get_or_compute("q", compute).response))
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        gate.set()
        for thread in threads:
            thread.join(10)

    assert answers == ["computed"] * 10
    assert len(calls) == 1


def test_streams_are_iterated() -> None:
    async def stream() -> AsyncIterator[str]:
        for piece in ("Hello", " world"):
            yield piece

    with LLMCache(CacheConfig(url="memory://")) as cache:
        assert list(cache.stream_or_compute("q", stream)) == ["Hello", " world"]
        assert "".join(cache.stream_or_compute("q", stream)) == "Hello world"


ENDS_WITHIN_A_STREAM = """
from cache_management import CacheConfig
from cache_management.sync import LLMCache, run

async def stream():
    for piece in "abc":
        yield piece

class ClosesLate:
    def __del__(self):
        cache.close()

cache = LLMCache(CacheConfig(url="memory://"))
late = ClosesLate() if {late} else None
unread = cache.stream_or_compute("unread", stream)
begun = cache.stream_or_compute("begun", stream)
cycle = [begun]
cycle.append(cycle)
print(next(begun))
"""


@pytest.mark.parametrize("late", [False, True])
def test_a_program_ends_within_a_stream(late: bool) -> None:
    code = ENDS_WITHIN_A_STREAM.format(late=late)

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)

    assert (found.returncode, found.stdout) == (0, "a\n")
    assert ("close a synchronous cache before" in found.stderr) if late else not found.stderr


def test_a_stream_that_nobody_holds_is_closed_and_blocks_nobody() -> None:
    left = threading.Event()

    async def stream() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            left.set()

    async def collect() -> None:
        gc.collect()

    with LLMCache(CacheConfig(url="memory://")) as cache:
        pieces = cache.stream_or_compute("q", stream)
        assert next(pieces) == "a"
        cycle = [pieces]
        cycle.append(cycle)
        del pieces, cycle
        run(collect())  # on the loop's own thread

        assert left.wait(10)
        assert cache.get("q") is None


def test_a_stream_can_be_closed() -> None:
    left = threading.Event()

    async def stream() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            left.set()

    with LLMCache(CacheConfig(url="memory://")) as cache:
        pieces = cache.stream_or_compute("q", stream)
        next(pieces)

        pieces.close()

        assert left.wait(10)
        assert list(pieces) == []


def test_errors_are_those_of_the_asynchronous_cache() -> None:
    with LLMCache(CacheConfig(url="memory://")) as cache, pytest.raises(ValueError, match="must not be empty"):
        cache.get("")


def test_a_manager_takes_synchronous_parts() -> None:
    cache = LLMCache(CacheConfig(url="memory://"))
    matcher = SimilarityMatcher(embedder=HashingEmbedder())
    with CacheManager(cache, matcher) as manager:
        manager.set_llm_cache("q", ANSWER)

        assert [match.response for match in manager.find_similar("q")] == ["a"]


def test_every_public_method_is_there_and_blocks() -> None:
    with LLMCache(CacheConfig(url="memory://")) as cache:
        for name, method in inspect.getmembers(llm.LLMCache, inspect.iscoroutinefunction):
            if not name.startswith("_"):
                face = getattr(cache, name)
                assert not inspect.iscoroutinefunction(face)
                assert face.__doc__ == method.__doc__


async def test_inside_another_loop_it_blocks_but_works() -> None:
    def use() -> str:
        with LLMCache(CacheConfig(url="memory://")) as cache:
            return str(cache.get_or_compute("q", lambda: "computed").response)

    assert await asyncio.to_thread(use) == "computed"


def test_inside_its_own_loop_it_refuses_instead_of_waiting_for_itself() -> None:
    async def nested() -> None:
        run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="own loop"):
        run(nested())
