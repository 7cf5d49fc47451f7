"""A real cluster of three primaries and three replicas."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest
from redis.crc import key_slot

from cache_management.cache.backends import open_backend
from cache_management.cache.backends.base import Backend, Journal, Leases, Stash, Tags
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.backends.redis_cluster import RedisClusterBackend
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.config import CacheBackend, CacheConfig, ReplicationConfig
from cache_management.cache.errors import BackendUnavailable, ConfigurationError
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse
from tests.cache.backends.test_compositions import KEYS
from tests.conftest import OwnRedisCluster, OwnRedisFactory
from tests.contracts.backend import PREFIX, BackendContract, JournalContract
from tests.contracts.clock import ManualClock
from tests.contracts.coordination import LeasesContract, StashContract, TagsContract
from tests.contracts.sweepable import SweepableContract
from tests.waiting import eventually

PATIENT_SECONDS = 20.0


def remove_expired(cluster: OwnRedisCluster, clock: ManualClock) -> None:
    """Remove what the nodes would have expired by now: their own clocks cannot be moved."""
    for server in cluster.primaries():
        with cluster.client(server) as client:
            for key in client.scan_iter():
                if 0 <= client.pexpiretime(key) <= clock.now * 1000:
                    client.delete(key)


def delete(cluster: OwnRedisCluster, key: str) -> None:
    assert cluster.ask(cluster.owner(key), "DEL", key) == 1


class OnCluster:
    clock: ManualClock

    @pytest.fixture(autouse=True)
    def server(self, redis_cluster: OwnRedisCluster) -> None:
        self.cluster = redis_cluster

    def opened(self) -> RedisClusterBackend:
        return RedisClusterBackend(
            CacheConfig(url=self.cluster.url, timeout_seconds=PATIENT_SECONDS), clock=getattr(self, "clock", time.time)
        )

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        remove_expired(self.cluster, self.clock)


class TestBackend(OnCluster, BackendContract):
    async def make(self) -> Backend:
        return self.opened()


class TestJournal(OnCluster, JournalContract):
    async def make_journal(self) -> Journal:
        return self.opened()

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        self.cluster.ask(self.cluster.owner(stream), "XTRIM", stream, "MAXLEN", 1)

    async def count_notes(self, journal: Journal, stream: str) -> int:
        return int(self.cluster.ask(self.cluster.owner(stream), "XLEN", stream))

    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        delete(self.cluster, stream)
        return journal


class TestLeases(OnCluster, LeasesContract):
    async def make_leases(self) -> Leases:
        return self.opened()

    async def expire(self, name: str) -> None:
        delete(self.cluster, name)


class TestTags(OnCluster, TagsContract):
    async def make_tags(self) -> Tags:
        return self.opened()


class TestStash(OnCluster, StashContract):
    async def make_stash(self) -> Stash:
        self.clock.now = time.time()
        return self.opened()

    async def expire(self, name: str) -> None:
        delete(self.cluster, name)


class TestSweepablePutTogether(OnCluster, SweepableContract):
    async def make(self) -> FullBackend:
        config = CacheConfig(
            url=self.cluster.url,
            namespace="contract",
            near_max_size=100,
            encryption_keys=KEYS,
            timeout_seconds=PATIENT_SECONDS,
        )
        found = open_backend(config, clock=self.clock)
        assert isinstance(found, FullBackend)
        return found


def record(value: bytes = b"value", version: int = 1) -> Record:
    return Record(value=value, expires_at=time.time() + 3600, version=version)


@pytest.fixture
async def backend(redis_cluster: OwnRedisCluster) -> AsyncIterator[RedisClusterBackend]:
    backend = RedisClusterBackend(CacheConfig(url=redis_cluster.url, timeout_seconds=PATIENT_SECONDS))
    yield backend
    await backend.aclose()


# Slots that move. The keys of these tests share a slot by what stands in braces.

MOVING = f"{PREFIX}{{moving}}"
SLOT = key_slot(MOVING.encode())


class Move:
    """A slot on its way from its owner to another primary; it is taken back in the end."""

    def __init__(self, cluster: OwnRedisCluster) -> None:
        self.cluster = cluster
        self.source = cluster.owner(MOVING)
        self.target = next(server for server in cluster.primaries() if server is not self.source)

    def begin(self) -> None:
        self.cluster.begin_move(SLOT, self.source, self.target)

    def move_some(self, count: int) -> None:
        self.cluster.move_keys(SLOT, self.source, self.target, count)

    def end(self) -> None:
        self.cluster.end_move(SLOT, self.source, self.target)


@pytest.fixture
def move(redis_cluster: OwnRedisCluster) -> Iterator[Move]:
    move = Move(redis_cluster)
    yield move
    if redis_cluster.owner(MOVING) is not move.target:
        move.end()
    redis_cluster.begin_move(SLOT, move.target, move.source)
    redis_cluster.end_move(SLOT, move.target, move.source)


async def test_a_slot_that_is_half_moved_serves_every_kind_of_call(backend: RedisClusterBackend, move: Move) -> None:
    keys = [f"{MOVING}{at}" for at in range(40)]
    others = [f"{PREFIX}{at}" for at in range(200)]
    await backend.put_many({key: record(key.encode()) for key in [*keys, *others]})
    await backend.add_tags({MOVING: {"k": time.time() + 60}})
    journal = await backend.append(MOVING + "s", [b"1"])

    move.begin()
    move.move_some(20)

    assert {key: each.value for key, each in (await backend.get_many([*keys, *others])).items()} == {
        key: key.encode() for key in [*keys, *others]
    }
    # Many at once: what is asked behind ASKING must not be taken for what another caller asks.
    found = await asyncio.gather(*(backend.get(key) for key in keys for _ in range(5)))
    assert [each.value for each in found if each is not None] == [key.encode() for key in keys for _ in range(5)]
    new = [f"{MOVING}new{at}" for at in range(10)]
    await backend.put_many({key: record(b"new") for key in new})
    await backend.put(keys[0], record(b"x" * 1_000_000))
    assert len(await backend.get_many([*new, keys[0]])) == 11
    assert set(await backend.heads(keys)) == set(keys)
    assert await backend.delete_many([*keys[:30], "absent"]) == 30
    assert sorted(await backend.delete_older([*keys, *new], 2)) == sorted([*keys[30:], *new])
    assert await backend.tagged(MOVING) == ["k"]
    await backend.append(MOVING + "s", [b"2", b"3"])
    assert (await backend.read_after(MOVING + "s", journal, limit=9))[0] == [b"2", b"3"]
    token = await backend.acquire(MOVING + "lease", owner="a", ttl_seconds=30)
    assert token is not None
    assert await backend.acquire(MOVING + "lease", owner="b", ttl_seconds=30) is None
    assert await backend.release(MOVING + "lease", owner="a")


async def test_nothing_is_lost_or_refused_while_slots_move(backend: RedisClusterBackend, move: Move) -> None:
    """Readers and writers go on through the whole move."""
    keys = [f"{MOVING}{at}" for at in range(60)]
    await backend.put_many({key: record(b"0") for key in keys})
    is_over = asyncio.Event()
    rounds = 0

    async def read_and_write(mine: list[str]) -> None:
        nonlocal rounds
        number = 0
        while not is_over.is_set():
            number += 1
            await backend.put_many({key: record(b"%d" % number) for key in mine})
            found = await backend.get_many(mine)
            assert {key: each.value for key, each in found.items()} == dict.fromkeys(mine, b"%d" % number)
            rounds += 1

    async def move_all() -> None:
        for step in (move.begin, *[lambda: move.move_some(6)] * 10, move.end):
            before = rounds
            await asyncio.to_thread(step)
            while rounds < before + 4:  # the others work in between
                await asyncio.sleep(0)
        is_over.set()

    async with asyncio.TaskGroup() as tasks:
        for at in range(4):
            tasks.create_task(read_and_write(keys[at::4]))
        tasks.create_task(move_all())

    assert set(await backend.get_many(keys)) == set(keys)
    assert move.cluster.owner(MOVING) is move.target


async def test_a_planned_failover_is_not_noticed(backend: RedisClusterBackend, redis_cluster: OwnRedisCluster) -> None:
    """What an upgrade of the nodes does one by one."""
    keys = [f"{PREFIX}{at}" for at in range(60)]
    before = redis_cluster.owner(keys[0])
    ports = {
        replica[1] for _, _, primary, replica in redis_cluster.ask(before, "CLUSTER SLOTS") if primary[1] == before.port
    }
    replica = next(server for server in redis_cluster.servers if server.port in ports)
    rounds = 0

    async def is_over() -> bool:
        nonlocal rounds
        rounds += 1
        await backend.put_many({key: record(b"%d" % rounds) for key in keys})
        found = await backend.get_many(keys)
        assert {key: each.value for key, each in found.items()} == dict.fromkeys(keys, b"%d" % rounds)
        return redis_cluster.owner(keys[0]) is replica

    assert not await is_over()
    redis_cluster.ask(replica, "CLUSTER FAILOVER")
    await eventually(is_over, pause=0)


async def test_a_walk_sees_the_keys_of_a_slot_that_moves(backend: RedisClusterBackend, move: Move) -> None:
    """The target is read to its end while the source still has all; then everything goes there."""
    keys = {f"{MOVING}{at}" for at in range(30)} | {f"{PREFIX}{at}" for at in range(300)}
    await backend.put_many({key: record() for key in keys})
    move.begin()
    seen: set[str] = set()
    bookmark: str | None = ""
    pages = 0

    while bookmark is not None:
        page, bookmark = await backend.scan_page(PREFIX, bookmark, 20)
        seen |= set(page)
        pages += 1
        move.move_some(1)
    move.end()

    assert seen == keys
    assert pages > 10


async def test_another_process_goes_on_at_a_bookmark(
    backend: RedisClusterBackend, redis_cluster: OwnRedisCluster
) -> None:
    keys = {f"{PREFIX}{at}" for at in range(300)}
    await backend.put_many({key: record() for key in keys})
    page, bookmark = await backend.scan_page(PREFIX, "", 40)
    seen = set(page)

    other = RedisClusterBackend(CacheConfig(url=redis_cluster.url, timeout_seconds=PATIENT_SECONDS))
    while bookmark is not None:
        page, bookmark = await other.scan_page(PREFIX, bookmark, 40)
        seen |= set(page)
    await other.aclose()

    assert seen == keys


# What it is told to talk to.


async def test_a_node_of_a_cluster_as_a_single_server_is_refused_with_the_way_out(
    redis_cluster: OwnRedisCluster,
) -> None:
    backend = RedisBackend(CacheConfig(url=f"redis://127.0.0.1:{redis_cluster.servers[0].port}"))

    with pytest.raises(BackendUnavailable, match=r"redis\+cluster://host:port"):
        await backend.get(PREFIX + "a")
    await backend.aclose()


async def test_nodes_of_a_cluster_as_nodes_of_a_replicated_cache_are_refused(redis_cluster: OwnRedisCluster) -> None:
    nodes = [f"127.0.0.1:{server.port}" for server in redis_cluster.servers[:3]]
    config = CacheConfig(backend=CacheBackend.REDIS, timeout_seconds=PATIENT_SECONDS, strict=True)

    async with DistributedCache(nodes, replication_config=ReplicationConfig(replicas=2), config=config) as cache:
        with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
            await cache.set("a", "b")


async def test_a_single_server_as_a_cluster_is_refused_with_the_way_out(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis+cluster://")
    backend = RedisClusterBackend(CacheConfig(url=url, timeout_seconds=PATIENT_SECONDS))

    with pytest.raises(BackendUnavailable, match="a single server has the url redis://host:port"):
        await backend.get(PREFIX + "a")
    await backend.aclose()


async def test_a_node_that_never_joined_is_named(own_redis: OwnRedisFactory) -> None:
    server = own_redis(extra=["--cluster-enabled", "yes"])
    backend = RedisClusterBackend(
        CacheConfig(url=f"redis+cluster://127.0.0.1:{server.port}", timeout_seconds=PATIENT_SECONDS)
    )

    with pytest.raises(BackendUnavailable, match="joined no cluster"):
        await backend.get(PREFIX + "a")
    await backend.aclose()


async def test_one_start_node_that_is_up_is_enough(redis_cluster: OwnRedisCluster, own_redis: OwnRedisFactory) -> None:
    down = own_redis()
    down.stop()
    url = f"redis+cluster://127.0.0.1:{down.port},127.0.0.1:{redis_cluster.servers[4].port}"
    backend = RedisClusterBackend(CacheConfig(url=url, timeout_seconds=PATIENT_SECONDS))

    await backend.put_many({f"{PREFIX}{at}": record() for at in range(50)})

    assert await backend.count(PREFIX) == 50
    await backend.ping()
    await backend.aclose()


async def test_a_frozen_node_is_left_alone_and_the_others_are_not(redis_cluster: OwnRedisCluster) -> None:
    backend = RedisClusterBackend(CacheConfig(url=redis_cluster.url, timeout_seconds=0.2))
    frozen = redis_cluster.owner(PREFIX + "a")
    other = next(f"{PREFIX}{at}" for at in range(99) if redis_cluster.owner(f"{PREFIX}{at}") is not frozen)
    await backend.put_many({PREFIX + "a": record(), other: record()})
    redis_cluster.pause(frozen)  # for less than its cluster's patience
    try:
        for at in range(2):
            reasons = await asyncio.gather(*(backend.get(PREFIX + "a") for _ in range(5)), return_exceptions=True)
            assert all(("left alone" if at else "no answer within") in str(each) for each in reasons)
        with pytest.raises(BackendUnavailable, match="left alone"):
            await backend.put_many({PREFIX + "a": record(), other: record(b"new")})
        with pytest.raises(BackendUnavailable, match="no answer within"):
            await backend.delete(PREFIX + "a")
        found = await backend.get(other)
    finally:
        redis_cluster.resume(frozen)

    assert found is not None
    assert found.value == b"new", "one node that is down does not keep the others from their part"

    async def answers() -> bool:
        with contextlib.suppress(BackendUnavailable):
            return await backend.get(PREFIX + "a") is not None
        return False

    await eventually(answers)
    await backend.aclose()


async def test_copies_in_memory_are_never_served(redis_cluster: OwnRedisCluster) -> None:
    config = CacheConfig(
        url=redis_cluster.url, namespace="contract", near_max_size=100, timeout_seconds=PATIENT_SECONDS
    )
    one, other = open_backend(config), open_backend(config)
    await one.put(PREFIX + "a", record(b"old"))
    assert await one.get(PREFIX + "a") is not None

    await other.put(PREFIX + "a", record(b"new"))
    found = await one.get(PREFIX + "a")

    assert found is not None
    assert found.value == b"new"
    await one.aclose()
    await other.aclose()


async def test_caches_stand_on_it(redis_cluster: OwnRedisCluster) -> None:
    config = CacheConfig(url=redis_cluster.url, timeout_seconds=PATIENT_SECONDS)
    calls = 0

    async def compute() -> str:
        nonlocal calls
        calls += 1
        return "computed"

    async with LLMCache(config) as cache, LLMCache(config) as other:
        response = CachedResponse(prompt="q", response="an answer", model="m", timestamp=datetime.now(UTC))
        await cache.set_many({f"q{at}": response for at in range(20)})
        assert len(await other.get_many([f"q{at}" for at in range(20)])) == 20
        assert sorted(await other.list_keys("q1?")) == [f"q{at}" for at in range(10, 20)]
        answers = await asyncio.gather(*(each.get_or_compute("cold", compute) for each in (cache, other) * 5))
        assert {answer.response for answer in answers} == {"computed"}
        assert calls == 1
        assert await other.delete_pattern("q*") == 20

        manager = CacheManager(cache)
        await manager.store("What is Python?", "A language.", tags=["t"])
        assert (await CacheManager(other).lookup("What is Python?")).hit
