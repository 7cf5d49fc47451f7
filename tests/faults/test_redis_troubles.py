"""An app whose Redis is slow, down, full or restarted goes on: what the README promises."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from cache_management.cache.config import CacheConfig
from cache_management.cache.decorator import cached
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.events import Event, MissEvent, UnavailableEvent
from cache_management.cache.invalidation import Selection
from cache_management.cache.llm import LLMCache
from cache_management.cache.values import CachedResponse
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.waiting import eventually

pytestmark = pytest.mark.faults
BUDGET_SECONDS = 0.25
VARIANTS: list[dict[str, Any]] = [{}, {"near_max_size": 100}]


def answer(text: str = "an answer") -> CachedResponse:
    return CachedResponse(prompt="q", response=text, model="gpt-4", timestamp=datetime(2026, 1, 1, tzinfo=UTC))


class App:
    """An application: it has a cache, a model, and no patience."""

    def __init__(self, server: OwnRedis, **options: Any) -> None:
        self.events: list[Event] = []
        self.cache = LLMCache(
            CacheConfig(url=server.url, timeout_seconds=BUDGET_SECONDS, **options), listener=self.events.append
        )
        self.model_calls = 0

    async def ask(self, key: str) -> str:
        async def model() -> str:
            self.model_calls += 1
            return f"on {key}"

        return (await self.cache.get_or_compute(key, model)).response

    def missed(self) -> set[str]:
        return {event.reason for event in self.events if isinstance(event, MissEvent)}


@pytest.fixture(params=VARIANTS, ids=["plain", "near"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


async def test_frozen_every_call_ends_in_its_time_and_answers_are_computed(
    own_redis: OwnRedisFactory, options: dict[str, Any]
) -> None:
    server = own_redis()
    app = App(server, **options)
    await app.cache.set("q", answer())
    server.pause()
    try:
        # A machine under load gets the rest of these: each waits at most once for its own budget.
        async with asyncio.timeout(10 * BUDGET_SECONDS):
            found = await asyncio.gather(*(app.cache.get(f"{at}") for at in range(200)))
        async with asyncio.timeout(10 * BUDGET_SECONDS):
            asked = await asyncio.gather(*(app.ask(f"{at}") for at in range(20)))
        async with asyncio.timeout(10 * BUDGET_SECONDS):
            await app.cache.set("q", answer("new"))
    finally:
        server.resume()
    await app.cache.aclose()

    assert found == [None] * 200
    assert asked == [f"on {at}" for at in range(20)]
    assert app.model_calls == 20
    assert app.missed() == {"degraded"}


async def test_down_nothing_is_raised_but_by_deletes(own_redis: OwnRedisFactory, options: dict[str, Any]) -> None:
    server = own_redis()
    app = App(server, **options)
    await app.cache.set("q", answer())
    server.kill()

    assert await app.cache.get("q") is None
    assert await app.cache.get_many(["q"]) == {}
    await app.cache.set("q", answer())
    assert await app.ask("other") == "on other"

    @cached(app.cache)
    async def ask_model(prompt: str) -> str:
        return f"on {prompt}"

    assert await ask_model("decorated") == "on decorated"
    assert [piece async for piece in app.cache.stream_or_compute("s", lambda: _stream())] == ["a", "b"]
    for removal in (app.cache.delete("q"), app.cache.invalidate(Selection(pattern="*")), app.cache.delete_pattern("*")):
        with pytest.raises(BackendUnavailable):
            await removal
    await app.cache.aclose()


async def _stream() -> Any:
    for piece in ("a", "b"):
        yield piece


async def test_full_of_other_things_reads_go_on_and_writes_are_told(
    own_redis: OwnRedisFactory, options: dict[str, Any]
) -> None:
    server = own_redis()
    app = App(server, **options)
    with redis.Redis.from_url(server.url) as client:
        client.set("another program's", b"x" * 2_000_000)
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 1_000_000)

        for at in range(20):
            await app.cache.set(f"{at}", answer("x" * 50_000))
        assert await app.ask("asked") == "on asked"

        refused = [event for event in app.events if isinstance(event, UnavailableEvent)]
        assert "OOM" in refused[0].reason
        assert await app.cache.get("other") is None
        # Twenty refusals in a row are no reason to leave a server alone that answers.
        assert app.missed() == {"absent"}
        assert not await app.cache.delete("other")
        client.config_set("maxmemory", 0)
    await app.cache.set("later", answer("later"))
    assert await app.cache.get("later") is not None
    await app.cache.aclose()


async def test_full_of_answers_the_old_ones_make_room(own_redis: OwnRedisFactory, options: dict[str, Any]) -> None:
    server = own_redis()
    app = App(server, **options)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
        for at in range(200):
            await app.cache.set(f"{at}", answer("x" * 50_000))
        assert await app.cache.get("199") is not None
        assert not [event for event in app.events if isinstance(event, UnavailableEvent)]
        assert (await app.cache.get_stats()).evictions > 100
    await app.cache.aclose()


async def test_full_of_answers_a_removal_is_still_noted(own_redis: OwnRedisFactory) -> None:
    """The late answer would find room, and so must the note that keeps it away."""
    server = own_redis()
    started, go = asyncio.Event(), asyncio.Event()

    async def late() -> str:
        started.set()
        await go.wait()
        return "late"

    async with LLMCache(CacheConfig(url=server.url)) as cache:
        for at in range(100):
            await cache.set(f"{at}", answer("x" * 50_000))
        asking = asyncio.create_task(cache.get_or_compute("q", late))
        await started.wait()
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 10_000)
        await cache.delete("q")
        go.set()
        await asking
        assert await cache.get("q") is None


@pytest.mark.parametrize("empty", [True, False])
async def test_restarted_the_same_cache_object_goes_on(
    own_redis: OwnRedisFactory, options: dict[str, Any], empty: bool
) -> None:
    server = own_redis(appendonly=True, extra=("--appendfsync", "always"))
    app = App(server, **options)
    await app.cache.set("q", answer("old"), tags=["t"])
    await app.ask("computed")
    server.kill()
    for _ in range(8):  # long enough for the breaker to open
        await app.cache.get("q")
    server.restart(empty=empty)

    async def works() -> bool:
        await app.cache.set("new", answer("new"))
        return await app.cache.get("new") is not None

    await eventually(works)
    found = await app.cache.get("q")
    assert (found is None) if empty else (found is not None and found.response == "old")
    # Scripts were lost with the server: leases and tags need them.
    assert await app.ask("asked after") == "on asked after"
    await app.cache.set("tagged", answer(), tags=["t"])
    assert await app.cache.invalidate(Selection(tag="t")) == (1 if empty else 2)
    await app.cache.aclose()


async def test_a_cancelled_write_never_lands_after_a_later_one(own_redis: OwnRedisFactory) -> None:
    """Large values travel apart from small ones, so a late one could undo what came after it."""
    server = own_redis()
    async with LLMCache(CacheConfig(url=server.url, timeout_seconds=5)) as cache:
        for at in range(5):
            write = asyncio.create_task(cache.set("q", answer(random.randbytes(20_000_000).hex())))
            await asyncio.sleep(0.001 * at)
            write.cancel()
            await asyncio.gather(write, return_exceptions=True)
            await cache.set("q", answer("new"))
            await cache.set("another", answer(random.randbytes(1_000_000).hex()))  # travels behind the cancelled one

            found = await cache.get("q")
            assert found is not None
            assert found.response == "new"
