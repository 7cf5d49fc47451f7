"""The caches without asyncio."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cache_management import CacheConfig, CachedResponse
from cache_management.cache import llm
from cache_management.cache.backends.base import Journal
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.invalidation import Selection
from cache_management.cache.usage import STREAM, decode_note
from cache_management.sync import CacheManager, LLMCache, SimilarityMatcher, run
from tests.conftest import OwnRedisFactory

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


def test_entries_are_exported_and_imported_without_asyncio() -> None:
    with front_door() as there, front_door() as here:
        there.store("where do I change my address", "In your profile.")

        report = here.import_entries(there.export_entries())

        assert report.added == 1
        assert here.lookup("my address where do I change").response.response == "In your profile."


def front_door() -> CacheManager:
    return CacheManager(
        LLMCache(CacheConfig(url="memory://", stale_while_revalidate_seconds=60)),
        SimilarityMatcher(embedder=HashingEmbedder()),
    )


def test_whole_requests_are_answered_without_a_loop() -> None:
    asked, reworded = "how do I reset my password", "my password, how do I reset"
    with front_door() as manager:
        for context in ({}, {"model": "m", "system": "Be brief."}, {"namespace": "other"}):
            manager.store(asked, "on the login page", **context)
            exact, near = manager.lookup(asked, **context), manager.lookup(reworded, **context)
            computed = manager.get_or_compute("another question", lambda: "computed", **context)

            assert (exact.kind, near.kind, computed.response) == ("exact", "semantic", "computed")
        manager.feedback(manager.lookup(reworded), correct=False)
        assert manager.lookup(reworded).vetoes == ("feedback_block",)
        assert [match.vetoes for match in manager.find_similar(reworded, limit=1)] == [("feedback_block",)]
        assert manager.false_hits().blocked == 1


def test_a_conversation_goes_on_without_a_loop() -> None:
    history = [{"role": "user", "content": "tell me about Paris"}, {"role": "assistant", "content": "A city."}]
    with front_door() as manager:
        manager.store("tell me about Paris", "A city.")
        manager.store("how many people live there", "Two million.", history=history)

        reworded = [{**history[0], "content": "about Paris, tell me"}, history[1]]
        assert manager.lookup("there live how many people", history=reworded).kind == "semantic"


def test_threads_share_one_front_door() -> None:
    with front_door() as manager, ThreadPoolExecutor(8) as pool:
        computed: list[int] = []

        def ask(at: int) -> str:
            def compute() -> str:
                computed.append(at)
                return f"answer {at % 10}"

            return str(manager.get_or_compute(f"question number {at % 10}", compute).response)

        answers = list(pool.map(ask, range(200)))

    assert answers == [f"answer {at % 10}" for at in range(200)]
    assert len(computed) == 10


FORKS = """
import os
from cache_management import CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.sync import CacheManager, LLMCache, SimilarityMatcher

cache = LLMCache(CacheConfig(url={url!r}))
manager = CacheManager(cache, SimilarityMatcher(embedder=HashingEmbedder()))
manager.store("how do I reset my password", "on the login page")
assert manager.lookup("my password, how do I reset").kind == "semantic"

def use(name):
    assert manager.lookup("my password, how do I reset").kind == "semantic"
    manager.store(f"a question of the {{name}}", "r")
    assert manager.lookup(f"of the {{name}} a question").kind == "semantic"
    assert manager.get_or_compute(f"{{name}} computes", lambda: "computed").response == "computed"

child = os.fork()
if not child:
    use("child")
    print("child is through", flush=True)
    os._exit(0)
use("parent")
assert os.waitpid(child, 0)[1] == 0
manager.close()
print("parent is through")
"""


@pytest.mark.parametrize("store", ["memory", "disk", "redis"])
def test_a_front_door_works_on_both_sides_of_a_fork(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    urls = {"memory": lambda: "memory://", "disk": lambda: f"disk://{tmp_path}/cache"}
    url = request.getfixturevalue("redis_url") if store == "redis" else urls[store]()

    found = subprocess.run(
        [sys.executable, "-c", FORKS.format(url=url)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (found.returncode, found.stderr) == (0, "")
    assert sorted(found.stdout.splitlines()) == ["child is through", "parent is through"]


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


UNCLOSED = """
from cache_management import CacheConfig
from cache_management.sync import LLMCache

cache = LLMCache(CacheConfig(url={url!r}))
print(cache.get("q"))
"""


@pytest.mark.parametrize("kind", ["disk", "redis"])
def test_a_script_that_closes_nothing_tells_of_its_use_all_the_same(kind: str, tmp_path: Path, redis_url: str) -> None:
    url = redis_url if kind == "redis" else f"disk://{tmp_path}"
    for _ in range(2):
        found = subprocess.run(
            [sys.executable, "-W", "error", "-c", UNCLOSED.format(url=url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (found.returncode, found.stdout, found.stderr) == (0, "None\n", "")

    async def told() -> list[int]:
        async with llm.LLMCache(CacheConfig(url=url)) as cache:
            backend = cache.backend
            assert isinstance(backend, Journal)
            data, _ = await backend.read_after(STREAM, "", limit=10)
        return [note.models[""].misses for note in map(decode_note, data) if note is not None]

    assert asyncio.run(told()) == [1, 1]


def test_a_script_ends_soon_although_its_store_is_frozen(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    script = UNCLOSED.format(url=server.url) + "print('asked', flush=True); input()"
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["None\n", "asked\n"]
        os.kill(server.pid, signal.SIGSTOP)
        try:
            process.stdin.write("\n")
            process.stdin.close()
            assert process.wait(5) == 0
        finally:
            process.kill()
            os.kill(server.pid, signal.SIGCONT)
