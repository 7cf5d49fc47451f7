from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from cache_management.cache.backends.base import Swept
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.backends.redis_eviction import _PART_LEASE_MS
from cache_management.cache.config import CacheConfig, EvictionPolicy
from cache_management.cache.errors import BackendRefused, ConfigurationError
from cache_management.cache.events import Event, RemoveEvent, UnavailableEvent
from cache_management.cache.eviction import make_evictor
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse
from tests.cache.eviction.replay import replay
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.waiting import eventually

PREFIX = "cm1:llm:default:k"
HEADROOM = 8_000_000
POLICIES = ["lru", "lfu", "s3fifo", "gdsf"]


def record(size: int = 2000, *, cost: int = 0, life: float = 3600) -> Record:
    return Record(value=random.randbytes(size), expires_at=time.time() + life, version=1, cost_micro=cost)


class Nearly:
    """A server with little room, and a way to look at it."""

    def __init__(self, server: OwnRedis, *, policy: str = "noeviction", room: int = HEADROOM) -> None:
        self.url = server.url
        self.backends: list[RedisBackend] = []
        self.client = redis.Redis.from_url(server.url)
        self.limit = self.client.info("memory")["used_memory"] + room
        self.client.config_set("maxmemory", self.limit)
        self.client.config_set("maxmemory-policy", policy)

    @property
    def used(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def backend(self, heard: list[Event] | None = None, **options: Any) -> RedisBackend:
        config = CacheConfig(url=self.url, timeout_seconds=20, **options)
        self.backends.append(RedisBackend(config, listener=(heard if heard is not None else []).append))
        return self.backends[-1]

    async def aclose(self) -> None:
        for backend in self.backends:
            await backend.aclose()
        self.client.close()

    def names(self) -> set[str]:
        return {key.decode() for key in self.client.scan_iter(count=10_000)}

    async def is_below(self, share: float) -> bool:
        return self.used <= share * self.limit


@pytest.fixture
async def nearly(own_redis: OwnRedisFactory) -> AsyncIterator[Nearly]:
    nearly = Nearly(own_redis())
    yield nearly
    await nearly.aclose()


@pytest.mark.parametrize("policy", [*POLICIES, "ttl"])
async def test_writers_together_stay_below_the_limit_and_lose_no_write(nearly: Nearly, policy: str) -> None:
    heard: list[Event] = []
    backends = [nearly.backend(heard, eviction_policy=policy) for _ in range(4)]

    async def write(number: int, backend: RedisBackend) -> None:
        for start in range(0, 3000, 20):
            await backend.put_many({f"{PREFIX}{number}-{at}": record() for at in range(start, start + 20)})
            assert nearly.used <= nearly.limit + 1_000_000  # the buffers of four connections count too

    await asyncio.gather(*(write(number, backend) for number, backend in enumerate(backends)))
    await eventually(lambda: nearly.is_below(0.9))

    async def all_are_accounted_for() -> bool:
        evicted = sum(event.count for event in heard if isinstance(event, RemoveEvent))
        return sum(name.startswith(PREFIX) for name in nearly.names()) + evicted >= 12_000

    await eventually(all_are_accounted_for)
    assert sum(name.startswith(PREFIX) for name in nearly.names()) > 1000
    assert not [event for event in heard if isinstance(event, UnavailableEvent)]


async def test_a_full_server_makes_room_for_a_write(nearly: Nearly) -> None:
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}{at}": record() for at in range(1000)})
    await tell(backend)
    nearly.client.config_set("maxmemory", nearly.used - 50_000)

    await backend.put(PREFIX + "new", record())

    assert await backend.get(PREFIX + "new") is not None


async def test_a_server_full_of_other_things_refuses(nearly: Nearly) -> None:
    backend = nearly.backend()
    nearly.client.config_set("maxmemory", 0)
    nearly.client.set("somebody else's", b"x" * (HEADROOM // 2))
    nearly.client.config_set("maxmemory", nearly.used - 50_000)

    with pytest.raises(BackendRefused, match="OOM"):
        await backend.put(PREFIX + "new", record())

    assert nearly.client.exists("somebody else's")


@pytest.mark.parametrize("policy", ["lru", "s3fifo", "gdsf"])
async def test_entries_of_every_size_make_room(nearly: Nearly, policy: str) -> None:
    """Most are small, and a few hold most of the bytes."""
    chance = random.Random(1)
    heard: list[Event] = []
    backend = nearly.backend(heard, eviction_policy=policy)
    for at in range(1500):
        await backend.put(f"{PREFIX}{at}", record(500_000 if chance.random() < 0.05 else 200))

    assert await backend.get(PREFIX + "1499") is not None
    assert sum(event.count for event in heard if isinstance(event, RemoveEvent)) > 50


async def test_a_process_that_begins_on_a_full_server_can_write(nearly: Nearly) -> None:
    first = nearly.backend()
    await first.put_many({f"{PREFIX}{at}": record(200) for at in range(5000)})
    await first.aclose()
    nearly.client.config_set("maxmemory", nearly.used - 10_000)

    for at in range(20):
        second = nearly.backend()
        await second.put(f"{PREFIX}new{at}", record(200))
        await second.aclose()

    assert sum(name.startswith(PREFIX) for name in nearly.names()) > 3000


async def test_names_of_expired_entries_do_not_look_like_an_empty_queue(nearly: Nearly) -> None:
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}dead{at}": record(10) for at in range(3000)})
    await tell(backend)
    await backend._node.pipeline([("DEL", f"{PREFIX}dead{at}") for at in range(3000)])
    await backend.put(PREFIX + "alive", record(10))
    await tell(backend)

    assert await backend._eviction._free(1) > 0
    assert await backend.get(PREFIX + "alive") is None


async def test_a_round_through_used_entries_is_made_in_parts(nearly: Nearly) -> None:
    backend = nearly.backend(eviction_policy="s3fifo")
    await backend.put_many({f"{PREFIX}{at}": record(10) for at in range(2000)})
    for _ in range(3):
        await backend.get_many([f"{PREFIX}{at}" for at in range(2000)])
    await tell(backend)
    names, queue = backend._eviction._queue.names, backend._eviction._queue
    part = await backend._node.run_script("sweep", names, [queue.rule, 1, 100, 1000, 60_000])

    assert part == [0, 2000]
    assert await backend._eviction._free(1) > 0


@pytest.mark.parametrize("before", [*POLICIES, "ttl"])
@pytest.mark.parametrize("after", [*POLICIES, "ttl"])
async def test_another_policy_finds_what_the_first_one_left(nearly: Nearly, before: str, after: str) -> None:
    first = nearly.backend(eviction_policy=before)
    await first.put_many({f"{PREFIX}old{at}": record(10) for at in range(300)})
    await first.get_many([f"{PREFIX}old{at}" for at in range(100)])
    await first.aclose()
    heard: list[Event] = []
    second = nearly.backend(heard, eviction_policy=after)
    await second.get_many([f"{PREFIX}old{at}" for at in range(100)])
    await tell(second)
    assert not heard
    await second._eviction._adopt()

    for _ in range(50):
        assert await second._eviction._free(1) > 0

    left = {name.removeprefix(PREFIX) for name in nearly.names() if name.startswith(PREFIX)}
    assert len(left) == 250
    if before != after and after in ("lru", "s3fifo"):  # the others know nothing of what they did not store
        assert {f"old{at}" for at in range(100)} <= left  # only those were noted since
    await second.aclose()


async def test_what_a_process_evicts_itself_leaves_its_memory(nearly: Nearly) -> None:
    dropped: list[str] = []
    backend = nearly.backend()
    backend.watch([PREFIX], lambda keys: dropped.extend(keys or []))
    await backend.put_many({f"{PREFIX}{at}": record(10) for at in range(10)})
    await backend._eviction._free(1)
    await tell(backend)
    await backend._eviction._adopt()
    await backend._eviction._free(1)

    assert len(set(dropped)) >= 2
    assert await backend.get_many(dropped) == {}


async def test_a_process_that_ends_at_once_leaves_nothing_on_a_server_without_a_limit(redis_url: str) -> None:
    backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=20))
    await backend.put(PREFIX + "a", record(10))
    await backend.aclose()

    with redis.Redis.from_url(redis_url) as client:
        assert not client.keys("cm1:evict:*")


async def test_a_user_who_may_not_look_at_the_memory_is_served_and_told_once(
    nearly: Nearly, caplog: pytest.LogCaptureFixture
) -> None:
    nearly.client.acl_setuser("app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-info"])
    backend = RedisBackend(
        CacheConfig(url=nearly.url, redis_username="app", redis_password="secret", timeout_seconds=20)
    )
    await backend.put(PREFIX + "a", record(10))

    async def has_given_up() -> bool:
        return backend._eviction._idle_until > 0

    await eventually(has_given_up)
    nearly.client.config_set("maxmemory", 1)
    with pytest.raises(BackendRefused, match="OOM"):
        await backend.put(PREFIX + "b", record(10))
    assert await backend.get(PREFIX + "a") is not None
    assert [entry.message for entry in caplog.records if "memory be watched" in entry.message]
    await backend.aclose()


async def test_copies_in_memory_keep_their_originals_in_the_store(nearly: Nearly) -> None:
    cache = LLMCache(CacheConfig(url=nearly.url, timeout_seconds=20, near_max_size=10))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    answer = CachedResponse(prompt="q", response="x" * 2000, model="m", timestamp=moment)
    await cache.set("hot", answer)
    for at in range(6000):
        await cache.get("hot")
        await cache.set(f"{at}", answer)

    assert nearly.client.exists(PREFIX + "hot")
    await cache.aclose()


async def test_two_loops_share_one_worker(nearly: Nearly) -> None:
    backend = nearly.backend()

    async def use(name: str) -> int:
        most = 0
        for at in range(300):
            await backend.put(f"{PREFIX}{name}{at}", record(10))
            most = max(most, len(asyncio.all_tasks()))
        await backend.aclose()
        return most

    counts = await asyncio.gather(use("here"), asyncio.to_thread(lambda: asyncio.run(use("there"))))

    assert max(counts) < 20


async def test_what_nobody_noted_is_found(nearly: Nearly) -> None:
    """A process that was killed left its entries and took its notes along."""
    dead = nearly.backend()
    await dead.put_many({f"{PREFIX}{at}": record() for at in range(2500)})
    dead._eviction._notes.clear()
    await dead.aclose()
    nearly.client.delete(*nearly.client.keys("cm1:evict:*") or ["none"])
    heard: list[Event] = []
    backend = nearly.backend(heard)
    nearly.client.config_set("maxmemory", nearly.used + 100_000)
    nearly.limit = nearly.used + 100_000

    await backend.put(PREFIX + "new", record())

    await eventually(lambda: nearly.is_below(0.81))
    assert await backend.get(PREFIX + "new") is not None


async def test_expired_and_deleted_entries_leave_the_queue(nearly: Nearly) -> None:
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}short{at}": record(10, life=0.3) for at in range(200)})
    await backend.put_many({f"{PREFIX}gone{at}": record(10) for at in range(50)})

    async def is_forgotten() -> bool:
        await backend.delete_many([f"{PREFIX}gone{at}" for at in range(50)])
        await backend.get(PREFIX + "nothing")
        await backend.put(PREFIX + "stays", record(10))
        return int(nearly.client.zcard("cm1:evict:lru:queue")) < 60 and nearly.client.exists(PREFIX + "stays") == 1

    await eventually(is_forgotten)


async def test_what_nobody_noted_is_found_behind_the_end_of_a_walk(nearly: Nearly) -> None:
    """The queue is empty, and a walk that stands before the end finds nothing in what is left of it."""
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}{at}": record(10) for at in range(3000)})
    await tell(backend)
    await backend._eviction._adopt()
    nearly.client.delete(backend._eviction._queue.queue)
    cursor: bytes | str = "0"
    while True:
        after, page = await backend._eviction._scan(cursor)
        if int(after) == 0:
            break
        cursor = after
    nearly.client.delete(*page)
    backend._eviction._cursor = cursor

    assert await backend._eviction._free(1) > 0


async def test_entries_that_are_noted_while_somebody_looks_make_room(
    nearly: Nearly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue was empty a moment ago, and nothing is left that nobody noted."""
    backend = nearly.backend()
    eviction = backend._eviction
    await eviction._adopt()
    await backend.put_many({f"{PREFIX}{at}": record(10) for at in range(300)})
    scan = eviction._scan

    async def note_then_scan(cursor: bytes | str) -> tuple[bytes, list[bytes]]:
        await tell(backend)
        return await scan(cursor)

    monkeypatch.setattr(eviction, "_scan", note_then_scan)

    assert await eviction._free(1) > 0


async def test_notes_that_are_lost_while_entries_are_adopted_are_not_forgotten(
    nearly: Nearly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written behind the walk is known by a note only, which a full server refused."""
    backend = nearly.backend()
    eviction = backend._eviction
    scan = eviction._scan

    async def scan_then_lose_a_note(cursor: bytes | str) -> tuple[bytes, list[bytes]]:
        answer = await scan(cursor)
        await backend.put(PREFIX + "unnoted", record(10))
        monkeypatch.setattr(eviction, "_scan", scan)
        nearly.client.config_set("maxmemory", nearly.used - 1000)
        await eviction._tell_and_sweep()
        nearly.client.config_set("maxmemory", nearly.limit)
        return answer

    monkeypatch.setattr(eviction, "_scan", scan_then_lose_a_note)
    await eviction._adopt()
    state = eviction._queue.state

    assert not nearly.client.hexists(state, "adopted")
    await eviction._adopt()
    assert nearly.client.hexists(state, "adopted")


async def test_what_was_stored_a_moment_ago_goes_last(nearly: Nearly) -> None:
    """Its note is not told yet, which does not make it older than what is noted."""
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}old{at}": record(10) for at in range(50)})
    await tell(backend)
    await backend.put(PREFIX + "new", record(10))

    for _ in range(50):
        assert await backend._eviction._free(1) > 0
    assert nearly.client.exists(PREFIX + "new")

    assert await backend._eviction._free(1) > 0
    assert not nearly.client.exists(PREFIX + "new")


@pytest.mark.parametrize("policy", ["noeviction without a limit", "allkeys-lru"])
async def test_a_server_that_needs_no_help_is_left_alone(own_redis: OwnRedisFactory, policy: str) -> None:
    server = own_redis()
    with redis.Redis.from_url(server.url) as client:
        if policy == "allkeys-lru":
            client.config_set("maxmemory", 50_000_000)
            client.config_set("maxmemory-policy", policy)
        backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=20))
        await backend.put(PREFIX + "a", record())

        async def has_looked() -> bool:
            return backend._eviction._idle_until > 0

        await eventually(has_looked)
        await backend.put(PREFIX + "b", record())

        assert not client.keys("cm1:evict:*")
        await backend.aclose()


async def test_a_limit_of_ones_own_counts_where_the_server_has_none(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    with redis.Redis.from_url(server.url) as client:
        limit = client.info("memory")["used_memory"] + 2_000_000
        backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=20, redis_memory_limit=limit))

        await backend.put_many({f"{PREFIX}{at}": record() for at in range(2000)})

        async def is_bounded() -> bool:
            return bool(client.info("memory")["used_memory"] < limit)

        await eventually(is_bounded)
        await backend.aclose()


async def sweep_all(backend: RedisBackend, *, limit: int = 150) -> list[Swept]:
    aim = (await backend.surplus()).aim
    parts = []
    while not parts or not parts[-1].is_done:
        parts.append(await backend.sweep(aim, limit))
    return parts


@pytest.mark.parametrize("policy", ["lru", "gdsf"])
async def test_a_server_that_nobody_writes_to_is_swept_from_above_the_high_mark_to_the_low_one(
    nearly: Nearly, policy: str
) -> None:
    heard: list[Event] = []
    backend = nearly.backend(heard, eviction_policy=policy)
    await backend.put_many({f"{PREFIX}{at}": record() for at in range(1_500)})
    await tell(backend)
    await backend.get_many([f"{PREFIX}{at}" for at in range(100)])
    await tell(backend)
    assert (await backend.surplus()).aim == {}
    nearly.client.config_set("maxmemory", int(nearly.used / 0.95))

    surplus = await backend.surplus()
    first = await backend.victims(surplus.aim, 3)
    parts = await sweep_all(backend)

    left = {name for name in nearly.names() if name.startswith(PREFIX)}
    assert nearly.used <= surplus.aim[""] < nearly.used + 1_000_000
    assert sum(part.entries for part in parts) == 1_500 - len(left) > 100
    assert sum(part.size_bytes for part in parts) > 0.7 * surplus.size_bytes
    assert max(part.entries for part in parts) <= 250
    assert not set(first) & left
    assert {f"{PREFIX}{at}" for at in range(100)} <= left, "what was used goes last"
    assert sum(event.count for event in heard if isinstance(event, RemoveEvent)) == 1_500 - len(left)
    assert (await backend.surplus()).aim == {}


async def test_a_sweep_waits_for_another_one_and_for_a_dead_one_not_long(nearly: Nearly) -> None:
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}{at}": record() for at in range(500)})
    await tell(backend)
    nearly.client.set("cm1:lease:evict", "another", px=60_000)

    waiting = await backend.sweep({"": 0}, 10)
    nearly.client.delete("cm1:lease:evict")
    working = await backend.sweep({"": nearly.used - 100_000}, 10)

    assert (waiting.is_busy, waiting.is_done, waiting.entries) == (True, False, 0)
    assert (working.is_busy, working.entries > 0) == (False, True)
    assert not nearly.client.exists("cm1:lease:evict")
    assert _PART_LEASE_MS <= 10_000


async def test_a_sweep_of_a_server_full_of_other_things_ends(nearly: Nearly) -> None:
    backend = nearly.backend()
    await backend.put_many({f"{PREFIX}{at}": record() for at in range(50)})
    nearly.client.config_set("maxmemory", 0)
    nearly.client.set("somebody else's", b"x" * (HEADROOM * 3 // 4))
    nearly.client.config_set("maxmemory", nearly.used)

    parts = await sweep_all(backend)

    assert sum(part.entries for part in parts) == 50
    assert nearly.client.exists("somebody else's")


async def test_names_of_entries_that_are_gone_leave_the_queue(nearly: Nearly) -> None:
    backend = nearly.backend(eviction_policy="gdsf")
    await backend.put_many({f"{PREFIX}{at}": record(10) for at in range(600)})
    await tell(backend)
    nearly.client.delete(*[f"{PREFIX}{at}" for at in range(0, 600, 2)])
    queue = backend._eviction._queue

    dropped = 0
    bookmark: str | None = ""
    while bookmark is not None:
        swept, bookmark = await backend.drop_expired(bookmark, 100)
        dropped += swept.names

    assert dropped == 300
    assert nearly.client.zcard(queue.queue) == nearly.client.hlen(queue.marks) == 300


async def tell(backend: RedisBackend) -> None:
    await backend._eviction._notes.tell(backend._node)


async def replay_on_redis(backend: RedisBackend, keys: list[str], *, capacity: int) -> float:
    """Do what `replay` does with an evictor, through the scripts."""
    eviction = backend._eviction
    held: set[str] = set()
    hits = 0
    for key in keys:
        name = PREFIX + key
        if name in held:
            hits += 1
            eviction.read(name)
        else:
            if len(held) == capacity:
                await tell(backend)
                await eviction._free(1)
                held = {each.decode() for each in await backend._node.call("KEYS", PREFIX + "*")}
            await backend._node.call("SET", name, "x", "EX", 3600)
            eviction.stored(name, Record(value=b"x", expires_at=None, version=1), 1)
            held.add(name)
        await tell(backend)
    return hits / len(keys)


@pytest.mark.parametrize("policy", ["lru", "lfu", "s3fifo", "gdsf"])
async def test_the_scripts_keep_to_the_rules_of_the_evictors(redis_url: str, policy: str) -> None:
    chance = random.Random(7)
    keys = [str(int(chance.paretovariate(0.7))) for _ in range(3000)]
    expected = replay(make_evictor(policy), keys, capacity=50).hits
    backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=20, eviction_policy=policy))
    backend._eviction._work = _nothing  # type: ignore[method-assign]

    found = await replay_on_redis(backend, keys, capacity=50)

    backend._eviction._notes.clear()
    await backend.aclose()
    assert found == pytest.approx(expected, abs=0.02)


async def _nothing() -> None:
    return None


async def test_gdsf_keeps_what_is_dear_and_ttl_what_lasts(redis_url: str) -> None:
    for policy, kept in (("gdsf", "dear"), ("ttl", "lasting")):
        backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=20, eviction_policy=policy))
        backend._eviction._work = _nothing  # type: ignore[method-assign]
        records = {
            "dear": record(1000, cost=90_000, life=60),
            "cheap": record(1000, cost=10, life=600),
            "lasting": record(1000, cost=20, life=6000),
        }
        await backend.put_many({PREFIX + name: each for name, each in records.items()})
        await tell(backend)

        await backend._eviction._free(1)
        await backend._eviction._free(1)

        assert set(await backend.get_many([PREFIX + name for name in records])) == {PREFIX + kept}
        await backend.delete_many([PREFIX + name for name in records])
        await tell(backend)
        await backend.aclose()


async def test_an_app_goes_on_writing_for_ever(nearly: Nearly) -> None:
    cache = LLMCache(CacheConfig(url=nearly.url, timeout_seconds=20, strict=True, eviction_policy="auto"))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for at in range(6000):
        text = "x" * 3000
        await cache.set(f"{at}", CachedResponse(prompt="q", response=text, model="m", timestamp=moment))

    assert await cache.get("5999") is not None
    assert (await cache.get_stats()).evictions > 1000
    await cache.aclose()


def test_watermarks_and_policies_are_checked() -> None:
    for marks in ({"eviction_high_watermark": 0.5}, {"eviction_low_watermark": 0.95}):
        with pytest.raises(ConfigurationError, match="below eviction_high_watermark"):
            CacheConfig(url="redis://localhost", **marks)
    with pytest.raises(ConfigurationError, match="your own works with backend: memory"):
        CacheConfig(url="redis://localhost", eviction_policy="my.module:Policy")
    assert CacheConfig(url="redis://localhost", eviction_policy="gdsf").eviction_policy is EvictionPolicy.GDSF
