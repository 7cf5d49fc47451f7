from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis

from cache_management.cache.backends import redis as redis_backend
from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.backends.redis_connection import Argument
from cache_management.cache.backends.redis_node import RedisNode
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.codec import pack
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.events import CorruptEvent, Event
from cache_management.cache.records import Record
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.contracts.backend import PREFIX, BackendContract, JournalContract
from tests.contracts.clock import remove_expired
from tests.contracts.watched import KEY, WatchedContract
from tests.contracts.watched import PREFIX as WATCHED
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
        self.clock.advance(seconds)
        remove_expired(self.url, self.clock)


class TestRedisJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_journal(self) -> Journal:
        return RedisBackend(CacheConfig(url=self.url, timeout_seconds=PATIENT_SECONDS))

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.xtrim(stream, maxlen=1, approximate=False)

    async def count_notes(self, journal: Journal, stream: str) -> int:
        with redis.Redis.from_url(self.url) as client:
            return int(client.xlen(stream))

    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        with redis.Redis.from_url(self.url) as client:
            client.delete(stream)
        return journal


class TestOlderRedisJournal(TestRedisJournal):
    """Redis 6.2 does not say how many notes a stream ever had."""

    @pytest.fixture(autouse=True)
    def older(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = RedisNode.call

        async def older_call(node: RedisNode, *command: Argument, payload_bytes: int = 0) -> Any:
            reply = await call(node, *command, payload_bytes=payload_bytes)
            if command[0] == "XINFO":
                known = (b"length", b"last-generated-id", b"groups", b"first-entry", b"last-entry")
                return {name: reply[name] for name in known}
            return reply

        monkeypatch.setattr(RedisNode, "call", older_call)
        monkeypatch.setattr(redis_backend, "_NOTES_KEPT", 30)

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        # Our own trimming only: it never leaves fewer than are kept.
        await journal.append(stream, [b"more"] * 60)
        with redis.Redis.from_url(self.url) as client:
            client.xtrim(stream, maxlen=30, approximate=False)


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


async def test_another_process_goes_on_at_a_bookmark(backend: RedisBackend, redis_url: str) -> None:
    records = {f"{PREFIX}{at}": Record(b"v", time.time() + 60, 1) for at in range(300)}
    await backend.put_many(records)
    seen, bookmark = await backend.scan_page(PREFIX, "", 50)

    other = RedisBackend(CacheConfig(url=redis_url))
    while bookmark is not None:
        page, bookmark = await other.scan_page(PREFIX, bookmark, 50)
        seen += page
    await other.aclose()

    assert set(seen) == set(records)


async def test_few_keys_among_many_take_few_pages(backend: RedisBackend) -> None:
    await backend.put_many({f"cm1:llm:other:k{at}": Record(b"v", time.time() + 60, 1) for at in range(5_000)})
    await backend.put(PREFIX + "a", Record(b"v", time.time() + 60, 1))

    pages, bookmark = 1, (await backend.scan_page(PREFIX, "", 100))[1]
    while bookmark is not None:
        pages, bookmark = pages + 1, (await backend.scan_page(PREFIX, bookmark, 100))[1]

    assert pages <= 3


async def test_bookmark_of_another_store_is_refused(backend: RedisBackend) -> None:
    with pytest.raises(InvalidInput, match="begin again"):
        await backend.scan_page(PREFIX, PREFIX + "a", 10)


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
    inspected = await backend.inspect_many([PREFIX + "a", PREFIX + "good", PREFIX + "absent"])
    await backend.aclose()

    assert list(found) == [PREFIX + "good"]
    assert inspected == {PREFIX + "a": None, **found}
    heard.pop()
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


class TestWatchedRedis(WatchedContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make(self) -> FullBackend:
        # Longer than the clock of these tests: the server's own decides what has expired.
        return RedisBackend(CacheConfig(url=self.url, timeout_seconds=PATIENT_SECONDS), clock=self.clock)

    def setup_method(self) -> None:
        super().setup_method()
        self.clock.now = time.time()

    async def test_an_expiry_is_told(self, watching: FullBackend, other: FullBackend) -> None:
        await other.put(KEY, Record(value=b"x", expires_at=time.time() + 0.05, version=1))
        await eventually(lambda: self.heard_of(watching, KEY))
        self.told.clear()

        await eventually(lambda: self.heard_of(watching, KEY))

    async def test_a_flush_is_told_as_everything(self, watching: FullBackend) -> None:
        self.told.clear()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

        await eventually(lambda: self.heard_of(watching, KEY))
        assert None in self.told

    async def test_own_writes_and_other_prefixes_are_not_told(self, watching: FullBackend, other: FullBackend) -> None:
        self.told.clear()

        await watching.put(KEY, self.record())
        await other.put("cm1:elsewhere:k", self.record())
        await other.put(KEY + "2", self.record())

        await eventually(lambda: self.heard_of(watching, KEY + "2"))
        assert self.told == [[KEY + "2"]]

    async def test_large_values_written_elsewhere_are_told(self, watching: FullBackend, other: FullBackend) -> None:
        self.told.clear()

        await other.put(KEY, self.record(bytes(1_000_000)))

        await eventually(lambda: self.heard_of(watching, KEY))

    async def test_a_second_watcher_replaces_the_first(self, watching: FullBackend, other: FullBackend) -> None:
        second: list[Sequence[str] | None] = []
        # One prefix within another: the server wants to hear of the outer one only.
        watching.watch([WATCHED + "other:", WATCHED + "other:inner:"], second.append)
        await watching.get(KEY)
        assert watching.is_current()
        self.told.clear()
        second.clear()

        await other.put(KEY, self.record())
        await other.put(WATCHED + "other:inner:k", self.record())

        async def second_heard() -> bool:
            return [WATCHED + "other:inner:k"] in second

        await eventually(second_heard)
        assert self.told == []
        assert [KEY] not in second

    async def test_a_killed_connection_is_told_and_a_read_makes_copies_current_again(
        self, watching: FullBackend, other: FullBackend
    ) -> None:
        self.told.clear()
        with redis.Redis.from_url(self.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)

        async def is_lost() -> bool:
            return None in self.told and not watching.is_current()

        await eventually(is_lost)
        self.told.clear()
        await watching.get(KEY)
        assert watching.is_current()
        assert self.told == [None], "what was copied between two connections was copied unwatched"
        self.told.clear()
        await other.put(KEY, self.record())
        await eventually(lambda: self.heard_of(watching, KEY))

    async def test_nobody_connected_is_not_current(self) -> None:
        backend = await self.make()
        backend.watch([WATCHED], self.told.append)

        assert not backend.is_current()

        await backend.get(KEY)
        assert backend.is_current()
        await backend.aclose()
        assert not backend.is_current()
        assert self.told[-1] is None

    async def test_a_watcher_that_comes_late_is_told_too(self, other: FullBackend) -> None:
        backend = await self.make()
        await backend.get(KEY)
        assert not backend.is_current()

        backend.watch([WATCHED], self.told.append)
        await backend.get(KEY)

        assert backend.is_current()
        await other.put(KEY, self.record())
        await eventually(lambda: self.heard_of(backend, KEY))
        await backend.aclose()

    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_second_event_loop_is_not_current_until_it_reads(self) -> None:
        async def first() -> FullBackend:
            backend = await self.make()
            backend.watch([WATCHED], self.told.append)
            await backend.get(KEY)
            return backend

        async def second(backend: FullBackend) -> tuple[bool, bool]:
            before = backend.is_current()
            await backend.get(KEY)
            after = backend.is_current()
            await backend.aclose()
            return before, after

        backend = asyncio.run(first())
        assert not backend.is_current(), "no loop runs, so nobody listens"
        self.told.clear()

        assert asyncio.run(second(backend)) == (False, True)
        assert None in self.told
        gc.collect()


async def test_dead_and_restarted_server_is_told(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    told: list[Sequence[str] | None] = []
    backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=PATIENT_SECONDS))
    backend.watch([WATCHED], told.append)
    await backend.get(KEY)
    told.clear()

    server.kill()

    async def is_lost() -> bool:
        return told == [None] and not backend.is_current()

    await eventually(is_lost)
    with pytest.raises(BackendUnavailable):
        await backend.get(KEY)
    assert not backend.is_current()
    server.restart(empty=True)
    await backend.get(KEY)
    assert backend.is_current()
    await backend.aclose()


async def test_frozen_server_is_not_current_for_long(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    told: list[Sequence[str] | None] = []
    # So patient that the connection stays: the silence alone must be enough.
    backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=PATIENT_SECONDS))
    backend.watch([WATCHED], told.append)
    await backend.get(KEY)
    assert backend.is_current()

    server.pause()

    async def is_in_doubt() -> bool:
        return not backend.is_current()

    await eventually(is_in_doubt)
    server.resume()
    await backend.get(KEY)
    assert backend.is_current()
    await backend.aclose()


async def test_an_old_answer_proves_nothing_about_now(redis_url: str) -> None:
    backend = RedisBackend(CacheConfig(url=redis_url, timeout_seconds=PATIENT_SECONDS))
    backend.watch([WATCHED], lambda keys: None)
    await backend.get(KEY)
    reading = asyncio.create_task(backend.get(KEY))
    await asyncio.sleep(0)

    start = time.monotonic()
    while time.monotonic() < start + 1.1:  # the loop stands still; what others write meanwhile waits in the socket
        pass
    await reading

    assert not backend.is_current()
    await backend.get(KEY)
    assert backend.is_current()
    await backend.aclose()


async def test_who_only_asks_stays_current(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    backend = RedisBackend(CacheConfig(url=server.url, timeout_seconds=PATIENT_SECONDS))
    backend.watch([WATCHED], lambda keys: None)
    await backend.get(KEY)
    start = time.monotonic()

    async def was_current_for_long() -> bool:
        assert backend.is_current()
        return time.monotonic() - start > 1.5

    await eventually(was_current_for_long)
    await backend.aclose()


async def test_server_that_refuses_to_tell_still_serves_and_is_named_once(
    own_redis: OwnRedisFactory, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_redis(extra=["--user", "cache", "on", ">pass", "~*", "&*", "+@all", "-client|tracking"])
    url = server.url.replace("redis://", "redis://cache:pass@")
    backend = RedisBackend(CacheConfig(url=url, timeout_seconds=PATIENT_SECONDS))
    backend.watch([WATCHED], lambda keys: None)

    with caplog.at_level(logging.WARNING, logger="cache_management"):
        for _ in range(2):
            await backend.put(KEY, record())
            assert await backend.get(KEY) is not None
            assert not backend.is_current()
            await backend.aclose()

    assert ["does not tell of changes" in each.message for each in caplog.records] == [True]
