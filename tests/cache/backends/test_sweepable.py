"""Stores that can be relieved from outside, alone and put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache_management.cache.backends import open_backend
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.events import Event, RemoveEvent
from cache_management.cache.records import Record
from tests.cache.backends.test_compositions import KEYS
from tests.contracts.clock import ManualClock, remove_expired
from tests.contracts.sweepable import PREFIX, SweepableContract


class TestMemory(SweepableContract):
    async def make(self) -> FullBackend:
        return MemoryBackend(max_size=1_000, clock=self.clock)


class TestDisk(SweepableContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path

    async def make(self) -> FullBackend:
        return DiskBackend(self.path, max_size=1_000, size_limit_bytes=10**7, timeout_seconds=5, clock=self.clock)


class TestDiskPutTogether(TestDisk):
    async def make(self) -> FullBackend:
        config = CacheConfig(
            url=f"disk://{self.path}", namespace="contract", max_size=1_000, near_max_size=100, encryption_keys=KEYS
        )
        found = open_backend(config.model_copy(update={"timeout_seconds": 20.0}), clock=self.clock)
        assert isinstance(found, FullBackend)
        return found


class TestRedisPutTogether(SweepableContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make(self) -> FullBackend:
        config = CacheConfig(
            url=self.url, namespace="contract", near_max_size=100, encryption_keys=KEYS, timeout_seconds=20
        )
        found = open_backend(config, clock=self.clock)
        assert isinstance(found, FullBackend)
        return found

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        remove_expired(self.url, self.clock)


def on_disk(folder: Path, clock: ManualClock, heard: list[Event] | None = None, **options: object) -> DiskBackend:
    given = {"max_size": 1_000, "size_limit_bytes": 10**7, "timeout_seconds": 5, **options}
    return DiskBackend(folder, clock=clock, listener=(heard if heard is not None else []).append, **given)  # type: ignore[arg-type]


async def sweep_all(backend: FullBackend) -> int:
    removed = 0
    aim = (await backend.surplus()).aim
    while True:
        swept = await backend.sweep(aim, 100)
        removed += swept.entries
        if swept.is_done:
            return removed


async def test_a_store_whose_bound_became_narrower_goes_down_to_the_low_mark(tmp_path: Path) -> None:
    clock = ManualClock()
    heard: list[Event] = []
    wide = on_disk(tmp_path, clock)
    record = Record(b"x" * 100, clock.now + 3600, 1)
    await wide.put_many({f"{PREFIX}{at}": record for at in range(900)})
    await wide.put_many({f"cm1:vec:contract:k{at}": record for at in range(95)})
    await wide.aclose()
    clock.advance(1)
    narrow = on_disk(tmp_path, clock, heard, max_size=100)
    await narrow.get(PREFIX + "0")  # the one that was used last of them

    surplus = await narrow.surplus()
    first = await narrow.victims(surplus.aim, 5)
    removed = await sweep_all(narrow)

    assert (surplus.entries, surplus.aim) == (820, {"llm:contract": 80})
    assert first == [f"{PREFIX}{at}" for at in range(5)]
    assert removed == 820
    assert await narrow.count(PREFIX) == 80
    assert await narrow.get(PREFIX + "0") is not None
    assert await narrow.count("cm1:vec:") == 95, "below its bound it is left alone"
    assert sum(event.count for event in heard if isinstance(event, RemoveEvent)) == 820
    assert (await narrow.surplus()).aim == {}
    await narrow.aclose()


async def test_bytes_go_down_to_the_low_mark_too_and_what_has_expired_goes_first(tmp_path: Path) -> None:
    clock = ManualClock()
    heard: list[Event] = []
    wide = on_disk(tmp_path, clock)
    await wide.put_many({f"{PREFIX}old{at}": Record(b"x" * 1_000, clock.now + 10, 1) for at in range(50)})
    await wide.put_many({f"{PREFIX}new{at}": Record(b"x" * 1_000, clock.now + 3600, 1) for at in range(50)})
    await wide.aclose()
    clock.advance(20)
    narrow = on_disk(tmp_path, clock, heard, size_limit_bytes=60_000)

    surplus = await narrow.surplus()
    await sweep_all(narrow)

    assert surplus.size_bytes == 100 * 1_028 - 48_000
    assert (surplus.expired, surplus.expired_bytes) == (50, 50 * 1_028)
    assert await narrow.count(PREFIX) == 46
    assert {(event.reason, event.count) for event in heard if isinstance(event, RemoveEvent)} >= {("expired", 50)}
    await narrow.aclose()


async def test_names_under_tags_that_expired_are_dropped_from_the_file(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = on_disk(tmp_path, clock)
    await backend.add_tags({"cm1:tag:contract:t": {"a": clock.now + 10, "b": clock.now + 100}})
    clock.advance(20)

    swept, _ = await backend.drop_expired("", 100)

    assert swept.names == 1
    assert await backend.tagged("cm1:tag:contract:t") == ["b"]
    await backend.aclose()
