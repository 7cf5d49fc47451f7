from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from cache_management.cache.backends.base import Backend
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheBackend, CacheConfig
from cache_management.cache.errors import BackendUnavailable, InvalidEntry, InvalidKey
from cache_management.cache.events import (
    CorruptEvent,
    Event,
    HitEvent,
    MissEvent,
    RemoveEvent,
    StoreEvent,
    UnavailableEvent,
)
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse
from tests.conftest import OwnRedisFactory
from tests.contracts.broken import BreakableBackend
from tests.contracts.clock import ManualClock

PATIENT_SECONDS = 20.0


def response(text: str = "an answer", **changes: Any) -> CachedResponse:
    fields = {"prompt": "a question", "model": "gpt-4", "timestamp": datetime(2026, 1, 2, tzinfo=UTC)}
    return CachedResponse(**{**fields, "response": text, **changes})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def backend(clock: ManualClock) -> Backend:
    return MemoryBackend(max_size=10_000, clock=clock)


@pytest.fixture
def cache(backend: Backend, clock: ManualClock, heard: list[Event]) -> LLMCache:
    return LLMCache(CacheConfig(backend=CacheBackend.MEMORY), backend=backend, clock=clock, listener=heard.append)


@pytest.fixture(params=["memory", "disk", "redis"])
async def any_backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend: Backend
    if request.param == "memory":
        backend = MemoryBackend(max_size=10_000)
    elif request.param == "disk":
        backend = DiskBackend(tmp_path, max_size=10_000, size_limit_bytes=10**9, timeout_seconds=PATIENT_SECONDS)
    else:
        url = request.getfixturevalue("redis_url")
        backend = RedisBackend(CacheConfig(url=url, timeout_seconds=PATIENT_SECONDS))
    yield backend
    await backend.aclose()


# values


async def test_response_comes_back_as_it_went_in(any_backend: Backend) -> None:
    cache = LLMCache(backend=any_backend)
    value = response(
        "Ünïcödé 日本語 🙂 \x00 \r\n",
        token_count=8,
        metadata={"user": "alice", "nested": {"list": [1, 2.5, None, True, "é"]}},
    )

    await cache.set("key", value)

    assert await cache.get("key") == value


@pytest.mark.parametrize("size", [100_000, 100_001, 3_000_000])
async def test_large_response_survives(any_backend: Backend, size: int) -> None:
    cache = LLMCache(backend=any_backend)
    value = response("".join(chr(97 + at * at % 26) for at in range(size)))

    await cache.set("key", value)

    assert await cache.get("key") == value


async def test_naive_timestamp_comes_back_aware_in_utc(cache: LLMCache) -> None:
    local = datetime(2026, 7, 1, 12, 30)  # noqa: DTZ001 - that is the point

    await cache.set("key", response(timestamp=local))

    found = await cache.get("key")
    assert found is not None
    assert found.timestamp.tzinfo is UTC
    assert found.timestamp == local.astimezone()


async def test_absent_key_is_none(cache: LLMCache) -> None:
    assert await cache.get("absent") is None
    assert await cache.exists("absent") is False
    assert await cache.delete("absent") is False


async def test_set_again_replaces(cache: LLMCache) -> None:
    await cache.set("key", response("old"))
    await cache.set("key", response("new"))

    found = await cache.get("key")
    assert found is not None
    assert found.response == "new"


@pytest.mark.parametrize("value", [{"response": "a dict"}, "text", None])
async def test_anything_but_a_response_is_refused_and_the_key_is_named(cache: LLMCache, value: object) -> None:
    with pytest.raises(InvalidEntry, match="'my key': a CachedResponse is stored, not"):
        await cache.set("my key", value)  # type: ignore[arg-type]


async def test_response_over_the_ceiling_is_refused_with_the_way_out() -> None:
    cache = LLMCache(CacheConfig(max_entry_bytes=1000), backend=MemoryBackend(max_size=10))

    with pytest.raises(InvalidEntry, match=r"'k': .* raise max_entry_bytes"):
        await cache.set("k", response("x" * 2000))


async def test_metadata_with_nan_is_refused_at_set(cache: LLMCache) -> None:
    with pytest.raises(InvalidEntry, match="metadata must be JSON"):
        await cache.set("k", response(metadata={"score": float("nan")}))

    assert await cache.get("k") is None


# expiry


async def test_none_takes_the_configured_ttl(cache: LLMCache, clock: ManualClock) -> None:
    await cache.set("key", response(), ttl_seconds=None)

    clock.advance(3599)
    before = await cache.get("key")
    clock.advance(1)

    assert before is not None
    assert await cache.get("key") is None
    assert await cache.exists("key") is False


async def test_explicit_ttl_wins_over_the_configured_one(cache: LLMCache, clock: ManualClock) -> None:
    await cache.set("short", response(), ttl_seconds=10)
    await cache.set("long", response(), ttl_seconds=7200)

    clock.advance(4000)

    assert await cache.list_keys() == ["long"]


@pytest.mark.parametrize(("configured", "given"), [(3600, -1), (-1, None), (None, None)])
async def test_entry_without_end_never_expires(clock: ManualClock, configured: int | None, given: int | None) -> None:
    backend = MemoryBackend(max_size=10, clock=clock)
    cache = LLMCache(CacheConfig(ttl_seconds=configured), backend=backend, clock=clock)
    await cache.set("key", response(), ttl_seconds=given)

    clock.advance(50 * 365 * 24 * 3600)

    assert await cache.get("key") is not None


@pytest.mark.parametrize("ttl", [0, -2, 10**400])
async def test_ttl_that_means_nothing_is_refused(cache: LLMCache, ttl: int) -> None:
    with pytest.raises(InvalidEntry, match=r"'key': ttl_seconds .* must be positive seconds"):
        await cache.set("key", response(), ttl_seconds=ttl)


async def test_set_again_starts_a_new_life(cache: LLMCache, clock: ManualClock) -> None:
    await cache.set("key", response(), ttl_seconds=10)
    clock.advance(9)
    await cache.set("key", response(), ttl_seconds=10)
    clock.advance(9)

    assert await cache.get("key") is not None


async def test_what_is_kept_for_bad_times_only_is_served_by_no_read(clock: ManualClock, heard: list[Event]) -> None:
    backend = MemoryBackend(max_size=10, clock=clock)
    config = CacheConfig(ttl_seconds=10, stale_if_error_seconds=100)
    cache = LLMCache(config, backend=backend, clock=clock, listener=heard.append)
    await cache.set("key", response())
    clock.advance(10)

    assert await cache.get("key") is None
    assert await cache.get_many(["key", "absent"]) == {}
    assert await cache.load_entries(["key"]) == {}

    assert [event.reason for event in heard if isinstance(event, MissEvent)] == ["expired", "expired", "absent"]
    assert (await cache.get_stats()).total_entries == 1, "it is still there, and counted"


# keys and patterns

LONG = "Tell me everything about the cache. " * 40


async def test_long_keys_are_listed_with_their_original_text(any_backend: Backend) -> None:
    cache = LLMCache(backend=any_backend)
    keys = ["short", LONG, LONG + "2", "日本語" * 100]
    await cache.set_many({key: response() for key in keys})

    assert await cache.list_keys() == sorted(keys)
    assert await cache.list_keys("Tell me *") == sorted([LONG, LONG + "2"])
    assert await cache.list_keys("*語") == ["日本語" * 100]
    assert await cache.list_keys("*nothing*") == []


async def test_pattern_deletes_long_and_short_keys_and_nothing_else(any_backend: Backend) -> None:
    cache = LLMCache(backend=any_backend)
    await cache.set_many({key: response() for key in ["user_1_a", "user_1_" + LONG, "user_2_a", "xuser_1_"]})

    assert await cache.delete_pattern("user_1_*") == 2
    assert await cache.list_keys() == ["user_2_a", "xuser_1_"]


async def test_key_with_glob_characters_is_matched_by_its_escaped_text(cache: LLMCache) -> None:
    await cache.set_many({"what is a*b?": response(), "what is aXb!": response()})

    assert await cache.list_keys(r"what is a\*b\?") == ["what is a*b?"]
    assert await cache.list_keys("what is a*b?") == ["what is a*b?", "what is aXb!"]


async def test_hundreds_of_keys_go_in_pages(any_backend: Backend) -> None:
    cache = LLMCache(backend=any_backend)
    await cache.set_many({f"{at}{'x' * 300 * (at % 2)}": response() for at in range(1100)})

    assert await cache.delete_pattern("*") == 1100
    assert await cache.list_keys() == []


@pytest.mark.parametrize("key", ["", "\ud800", "x" * 70_000])
async def test_unusable_key_is_refused_by_every_call(cache: LLMCache, key: str) -> None:
    for call in (cache.get(key), cache.set(key, response()), cache.exists(key), cache.delete(key)):
        with pytest.raises(InvalidKey):
            await call


async def test_nothing_is_stored_when_one_of_many_cannot_be(cache: LLMCache) -> None:
    with pytest.raises(InvalidKey):
        await cache.set_many({"good": response(), "": response()})

    assert await cache.list_keys() == []


async def test_get_many_returns_what_is_there(cache: LLMCache) -> None:
    await cache.set_many({"a": response("A"), LONG: response("L")})

    found = await cache.get_many(["a", "absent", LONG, "a"])

    assert {key: value.response for key, value in found.items()} == {"a": "A", LONG: "L"}
    assert await cache.get_many([]) == {}


async def test_delete_many_counts(cache: LLMCache) -> None:
    await cache.set_many({"a": response(), "b": response()})

    assert await cache.delete_many(["a", "absent"]) == 1


# namespaces


async def test_namespaces_are_hard_partitions(any_backend: Backend) -> None:
    names = ["a", "a.b", "A", "ab", "a-"]
    caches = {name: LLMCache(CacheConfig(namespace=name), backend=any_backend) for name in names}
    for name, cache in caches.items():
        await cache.set_many({"key": response(name), LONG: response(name), f"only-{name}": response(name)})

    for name, cache in caches.items():
        found = await cache.get_many(["key", LONG, *(f"only-{other}" for other in names)])
        assert set(found) == {"key", LONG, f"only-{name}"}
        assert {value.response for value in found.values()} == {name}
        assert await cache.list_keys() == sorted(["key", LONG, f"only-{name}"])
        assert (await cache.get_stats()).total_entries == 3

    assert await caches["a"].delete_pattern("*") == 3
    assert await caches["a"].delete("only-ab") is False
    for name in names[1:]:
        assert len(await caches[name].list_keys()) == 3


# failures


async def test_corrupt_entry_is_a_miss_with_an_event(cache: LLMCache, backend: Backend, heard: list[Event]) -> None:
    await backend.put("cm1:llm:default:kbad", Record(value=b"\x00garbage", expires_at=None, version=1))

    assert await cache.get("bad") is None
    assert await cache.get_many(["bad"]) == {}

    assert [type(event) for event in heard] == [CorruptEvent, MissEvent] * 2
    assert {event.reason for event in heard if isinstance(event, MissEvent)} == {"corrupt"}
    assert (await cache.get_stats()).corrupt_records == 2


async def test_corrupt_long_key_does_not_spoil_the_list(cache: LLMCache, backend: Backend, heard: list[Event]) -> None:
    await cache.set_many({LONG: response(), "short": response()})
    await backend.put("cm1:llm:default:h" + "0" * 40, Record(value=b"\x00garbage", expires_at=None, version=1))

    assert await cache.list_keys() == sorted([LONG, "short"])
    assert CorruptEvent in [type(event) for event in heard]


async def test_store_that_is_down_costs_a_miss_and_an_event(heard: list[Event]) -> None:
    cache = LLMCache(CacheConfig(), backend=BreakableBackend(), listener=heard.append)

    assert await cache.get("k") is None
    assert await cache.get_many(["k"]) == {}
    assert await cache.exists("k") is False
    assert await cache.list_keys() == []
    await cache.set("k", response())
    assert (await cache.get_stats()).total_entries == 0

    failures = [event for event in heard if isinstance(event, UnavailableEvent)]
    assert [event.operation for event in failures] == ["get", "get_many", "exists", "list_keys", "set", "get_stats"]
    assert [event.reason for event in heard if isinstance(event, MissEvent)] == ["degraded", "degraded"]
    assert StoreEvent not in [type(event) for event in heard]


async def test_delete_raises_when_the_store_is_down() -> None:
    cache = LLMCache(CacheConfig(), backend=BreakableBackend())

    for call in (cache.delete("k"), cache.delete_many(["k"]), cache.delete_pattern("*")):
        with pytest.raises(BackendUnavailable):
            await call


async def test_strict_raises_everywhere() -> None:
    cache = LLMCache(CacheConfig(strict=True), backend=BreakableBackend())

    for call in (
        cache.get("k"),
        cache.get_many(["k"]),
        cache.set("k", response()),
        cache.exists("k"),
        cache.list_keys(),
        cache.get_stats(),
    ):
        with pytest.raises(BackendUnavailable):
            await call


async def test_jobs_hear_of_a_store_that_is_down_even_without_strict() -> None:
    cache = LLMCache(CacheConfig(), backend=BreakableBackend())

    with pytest.raises(BackendUnavailable):
        await cache.load_entries(["k"])
    with pytest.raises(BackendUnavailable):
        await cache.put_records({"k": cache.encode("k", response())})


async def test_dead_redis_fails_open_within_the_budget_and_heals_by_itself(
    own_redis: OwnRedisFactory, heard: list[Event]
) -> None:
    server = own_redis()
    cache = LLMCache(CacheConfig(url=server.url, timeout_seconds=1.0), listener=heard.append)
    await cache.set("k", response())
    server.kill()
    heard.clear()

    started = time.monotonic()
    assert await cache.get("k") is None
    elapsed = time.monotonic() - started
    with pytest.raises(BackendUnavailable):
        await cache.delete("k")
    server.restart()
    await cache.set("k", response("back"))

    assert elapsed < 4
    assert [type(event) for event in heard[:2]] == [UnavailableEvent, MissEvent]
    found = await cache.get("k")
    assert found is not None
    assert found.response == "back"
    await cache.aclose()


async def test_flipped_byte_in_redis_is_a_miss(redis_url: str, heard: list[Event]) -> None:
    cache = LLMCache(CacheConfig(url=redis_url, timeout_seconds=PATIENT_SECONDS), listener=heard.append)
    await cache.set("k", response())
    with redis.Redis.from_url(redis_url) as client:
        client.setrange("cm1:llm:default:kk", 40, b"\xff")

    assert await cache.get("k") is None

    assert CorruptEvent in [type(event) for event in heard]
    await cache.aclose()


# events and statistics


async def test_each_operation_tells_what_happened(cache: LLMCache, heard: list[Event]) -> None:
    await cache.set("k", response(token_count=7))
    await cache.get("k")
    await cache.get("absent")
    await cache.delete("k")

    stored, hit, miss, removed = heard
    assert isinstance(stored, StoreEvent)
    assert (stored.key, stored.size_bytes > 10) == ("k", True)
    assert isinstance(hit, HitEvent)
    assert (hit.kind, hit.key, hit.tokens, hit.latency_ms >= 0) == ("exact", "k", 7, True)
    assert isinstance(miss, MissEvent)
    assert (miss.reason, miss.key) == ("absent", "absent")
    assert removed == RemoveEvent("delete", "default", 1)


async def test_statistics_count_this_process_and_the_store(cache: LLMCache) -> None:
    await cache.set_many({"a": response(token_count=5), "b": response()})
    await cache.get_many(["a", "absent"])
    await cache.delete("b")

    stats = await cache.get_stats()

    assert (stats.total_entries, stats.hits, stats.misses, stats.stores, stats.deletes) == (1, 1, 1, 2, 1)
    assert (stats.tokens_saved, stats.hit_rate, stats.backend, stats.namespace) == (5, 0.5, "memory", "default")


async def test_evictions_are_counted() -> None:
    cache = LLMCache(CacheConfig(backend=CacheBackend.MEMORY, max_size=2))

    await cache.set_many({str(at): response() for at in range(5)})

    assert (await cache.get_stats()).evictions == 3


async def test_raising_listener_does_not_break_the_cache() -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("a listener's own fault")

    cache = LLMCache(CacheConfig(backend=CacheBackend.MEMORY), listener=broken)
    await cache.set("k", response())

    assert await cache.get("k") is not None


# what jobs use


async def test_entries_tell_their_version_and_expiry_and_are_not_counted(cache: LLMCache, clock: ManualClock) -> None:
    await cache.set("k", response(), ttl_seconds=60)

    entries = await cache.load_entries(["k", "absent"])

    assert list(entries) == ["k"]
    assert entries["k"].expires_at == clock.now + 60
    assert entries["k"].version > 0
    assert cache.stats.hits == cache.stats.misses == 0


async def test_later_write_has_the_larger_version(cache: LLMCache) -> None:
    await cache.set("k", response("1"))
    first = (await cache.load_entries(["k"]))["k"].version
    await cache.set("k", response("2"))

    assert (await cache.load_entries(["k"]))["k"].version > first


async def test_leaving_the_context_closes(tmp_path: Path) -> None:
    async with LLMCache(CacheConfig(url=f"disk://{tmp_path}", timeout_seconds=PATIENT_SECONDS)) as cache:
        await cache.set("k", response())

    await cache.close()
    reopened = LLMCache(CacheConfig(url=f"disk://{tmp_path}", timeout_seconds=PATIENT_SECONDS))
    assert await reopened.get("k") is not None
    await reopened.aclose()


async def test_hundreds_of_calls_at_once_all_answer(any_backend: Backend) -> None:
    cache = LLMCache(backend=any_backend)

    await asyncio.gather(*(cache.set(str(at), response(str(at))) for at in range(300)))
    found = await asyncio.gather(*(cache.get(str(at)) for at in range(300)))

    assert [value.response for value in found if value is not None] == [str(at) for at in range(300)]
