from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.codec import pack
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.events import CorruptEvent, Event
from cache_management.cache.records import Record
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.contracts.backend import PREFIX, BackendContract, JournalContract
from tests.waiting import eventually

PATIENT_SECONDS = 20.0
BUDGET_SECONDS = 0.3


class TestRedisBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make(self) -> Backend:
        return RedisBackend(CacheConfig(url=self.url, timeout_seconds=PATIENT_SECONDS), clock=self.clock)

    async def pass_time(self, seconds: float) -> None:
        # The server's clock cannot be moved: what it would have expired by then is removed instead.
        self.clock.advance(seconds)
        with redis.Redis.from_url(self.url) as client:
            for key in client.scan_iter():
                if 0 <= client.pexpiretime(key) <= self.clock.now * 1000:
                    client.delete(key)


class TestRedisJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_journal(self) -> Journal:
        return RedisBackend(CacheConfig(url=self.url, timeout_seconds=PATIENT_SECONDS))

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.xtrim(stream, maxlen=1, approximate=False)

    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        with redis.Redis.from_url(self.url) as client:
            client.delete(stream)
        return journal


def record(value: bytes = b"value") -> Record:
    return Record(value=value, expires_at=time.time() + 3600, version=1)


@pytest.fixture
async def backend(redis_url: str) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=PATIENT_SECONDS))
    yield backend
    await backend.aclose()


def commands_seen(client: redis.Redis, *ignored: str) -> dict[str, int]:
    stats = client.info("commandstats")
    own = {"info", "config|resetstat", "client|setinfo", "hello", "select", *ignored}
    names = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
    return {name: calls for name, calls in names.items() if name not in own}


async def test_get_is_one_command(backend: RedisBackend, redis_url: str) -> None:
    await backend.put(PREFIX + "a", record())
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()

        await backend.get(PREFIX + "a")

        assert commands_seen(client) == {"get": 1}


async def test_batch_get_is_one_command(backend: RedisBackend, redis_url: str) -> None:
    keys = [f"{PREFIX}{at}" for at in range(300)]
    await backend.put_many({key: record() for key in keys})
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()

        assert len(await backend.get_many(keys)) == 300

        assert commands_seen(client) == {"mget": 1}


async def test_put_sets_value_and_expiry_in_one_command(backend: RedisBackend, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()

        await backend.put(PREFIX + "a", record())

        assert commands_seen(client) == {"set": 1}
        assert 3590 < client.ttl(PREFIX + "a") <= 3601


async def test_server_expires_what_nobody_asks_for(backend: RedisBackend, redis_url: str) -> None:
    await backend.put(PREFIX + "a", Record(value=b"x", expires_at=time.time() + 0.05, version=1))

    async def is_gone() -> bool:
        return await backend.count() == 0

    await eventually(is_gone)


@pytest.mark.parametrize("damage", ["flip", "truncate", "foreign", "moved"])
async def test_damaged_frame_is_left_out_with_an_event(redis_url: str, damage: str) -> None:
    heard: list[Event] = []
    backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=PATIENT_SECONDS), listener=heard.append)
    frame = pack(PREFIX + "a", record())
    bad = {
        "flip": frame[:-1] + bytes([frame[-1] ^ 1]),
        "truncate": frame[:5],
        "foreign": b'{"json": "of another program"}',
        "moved": pack(PREFIX + "b", record()),
    }[damage]
    with redis.Redis.from_url(redis_url) as client:
        client.set(PREFIX + "a", bad, ex=60)
    await backend.put(PREFIX + "good", record())

    found = await backend.get_many([PREFIX + "a", PREFIX + "good"])
    await backend.aclose()

    assert list(found) == [PREFIX + "good"]
    assert [(type(event), getattr(event, "storage_key", None)) for event in heard] == [(CorruptEvent, PREFIX + "a")]


async def test_key_of_another_type_is_a_refusal_not_a_crash(backend: RedisBackend, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(PREFIX + "a", "list")
        client.expire(PREFIX + "a", 60)

    with pytest.raises(BackendUnavailable, match="refused"):
        await backend.get(PREFIX + "a")


def impatient(server: OwnRedis) -> RedisBackend:
    return RedisBackend(CacheConfig(url=server.url, timeout_seconds=BUDGET_SECONDS))


async def refuses_within_budget(backend: RedisBackend) -> None:
    for call in (
        backend.get(PREFIX + "a"),
        backend.put(PREFIX + "a", record()),
        backend.delete(PREFIX + "a"),
        backend.count(PREFIX),
        backend.ping(),
        backend.append("s", [b"note"]),
        backend.tail("s"),
        backend.read_after("s", "", limit=1),
    ):
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"redis at 127\.0\.0\.1"):
            await call
        # Generous: the point is that nothing hangs for a driver's default of many seconds.
        assert time.monotonic() - started < BUDGET_SECONDS + 2


async def test_dead_server_costs_at_most_the_budget(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    backend = impatient(server)
    await backend.put(PREFIX + "a", record())

    server.kill()

    await refuses_within_budget(backend)
    await backend.aclose()


async def test_frozen_server_costs_at_most_the_budget(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    backend = impatient(server)
    await backend.put(PREFIX + "a", record())

    server.pause()

    await refuses_within_budget(backend)
    server.resume()
    await backend.aclose()


async def test_late_answer_is_never_taken_for_the_answer_to_the_next_question(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    backend = impatient(server)
    await backend.put_many({PREFIX + "a": record(b"a"), PREFIX + "b": record(b"b")})

    server.pause()
    with pytest.raises(BackendUnavailable):
        await backend.get(PREFIX + "a")
    server.resume()

    async def answers() -> bool:
        try:
            await backend.ping()
        except BackendUnavailable:
            return False
        return True

    await eventually(answers)
    for key in ("b", "a", "b"):
        found = await backend.get(PREFIX + key)
        assert found is not None
        assert found.value == key.encode()
    await backend.aclose()


async def test_first_call_after_a_restart_works(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=PATIENT_SECONDS))
    await asyncio.gather(*(backend.put(f"{PREFIX}{at}", record()) for at in range(8)))

    server.restart(empty=True)

    assert await backend.get(PREFIX + "0") is None
    await asyncio.gather(*(backend.put(f"{PREFIX}{at}", record()) for at in range(8)))
    assert await backend.count(PREFIX) == 8
    await backend.aclose()


async def test_server_without_memory_refuses_writes_and_still_reads(own_redis: OwnRedisFactory) -> None:
    server = own_redis(maxmemory_policy="noeviction")
    backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=PATIENT_SECONDS))
    await backend.put(PREFIX + "a", record(b"kept"))
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")

    with pytest.raises(BackendUnavailable, match="refused"):
        await backend.put(PREFIX + "b", record())

    found = await backend.get(PREFIX + "a")
    assert found is not None
    assert found.value == b"kept"
    await backend.aclose()


async def test_wrong_password_is_unavailable_and_not_shown(own_redis: OwnRedisFactory) -> None:
    server = own_redis(extra=["--requirepass", "right-one"])
    backend = RedisBackend(CacheConfig(url=server.url, redis_password="wrong-one", timeout_seconds=PATIENT_SECONDS))

    with pytest.raises(BackendUnavailable) as raised:
        await backend.ping()

    assert "wrong-one" not in str(raised.value)
    await backend.aclose()


async def test_right_password_in_the_url_opens(own_redis: OwnRedisFactory) -> None:
    server = own_redis(extra=["--requirepass", "p@ss word"])
    url = f"redis://:p%40ss%20word@127.0.0.1:{server.port}/0"
    backend = RedisBackend(CacheConfig(url=url, timeout_seconds=PATIENT_SECONDS))

    await backend.ping()
    await backend.aclose()


async def test_unix_socket_serves_too(own_redis: OwnRedisFactory, tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        own_redis(extra=["--unixsocket", f"{folder}/s"])
        backend = RedisBackend(CacheConfig(url=f"unix://{folder}/s?db=1", timeout_seconds=PATIENT_SECONDS))

        await backend.put(PREFIX + "a", record())

        assert await backend.get(PREFIX + "a") is not None
        await backend.aclose()


async def test_missing_unix_socket_is_named(tmp_path: object) -> None:
    backend = RedisBackend(CacheConfig(url="unix:///nowhere/at/all.sock", timeout_seconds=BUDGET_SECONDS))

    with pytest.raises(BackendUnavailable, match="unix socket"):
        await backend.ping()
    await backend.aclose()


async def test_plain_server_behind_a_tls_url_is_unavailable(redis_url: str) -> None:
    url = redis_url.replace("redis://", "rediss://")
    backend = RedisBackend(CacheConfig(url=url, timeout_seconds=BUDGET_SECONDS))

    with pytest.raises(BackendUnavailable, match=r"redis at 127\.0\.0\.1"):
        await backend.ping()
    await backend.aclose()
