from __future__ import annotations

import pytest

from cache_management.cache.backends import memory, open_backend
from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.config import CacheBackend, CacheConfig, EvictionPolicy
from cache_management.cache.events import Event, RemoveEvent
from cache_management.cache.records import Record
from tests.contracts.backend import BackendContract, JournalContract


class TestMemoryBackend(BackendContract):
    async def make(self) -> Backend:
        return MemoryBackend(max_size=10_000, clock=self.clock)


class TestMemoryJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def short_journal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "_JOURNAL_LENGTH", 10)

    async def make_journal(self) -> Journal:
        return MemoryBackend(max_size=10)

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        await journal.append(stream, [b"more"] * 10)

    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        return MemoryBackend(max_size=10)


def record(value: bytes = b"x", expires_at: float | None = None) -> Record:
    return Record(value=value, expires_at=expires_at, version=1)


async def test_least_recently_read_goes_first() -> None:
    backend = MemoryBackend(max_size=2, policy=EvictionPolicy.LRU)
    await backend.put_many({"cm1:llm:n:ka": record(), "cm1:llm:n:kb": record()})
    await backend.get("cm1:llm:n:ka")

    await backend.put("cm1:llm:n:kc", record())

    assert {key async for key in backend.scan()} == {"cm1:llm:n:ka", "cm1:llm:n:kc"}


async def test_kinds_and_namespaces_are_bounded_apart() -> None:
    backend = MemoryBackend(max_size=2)

    for at in range(5):
        await backend.put_many({f"cm1:{group}:k{at}": record() for group in ("llm:a", "llm:b", "vec:a")})

    assert [await backend.count(f"cm1:{group}:") for group in ("llm:a", "llm:b", "vec:a")] == [2, 2, 2]


async def test_newest_entry_is_not_its_own_victim() -> None:
    backend = MemoryBackend(max_size=2, policy=EvictionPolicy.TTL)
    await backend.put_many({"cm1:llm:n:klong": record(expires_at=9e9), "cm1:llm:n:kforever": record()})

    await backend.put("cm1:llm:n:kshort", record(expires_at=5e9))

    assert {key async for key in backend.scan()} == {"cm1:llm:n:kshort", "cm1:llm:n:kforever"}


async def test_single_place_goes_to_the_newest() -> None:
    backend = MemoryBackend(max_size=1, policy=EvictionPolicy.LFU)
    await backend.put("cm1:llm:n:kold", record())
    for _ in range(5):
        await backend.get("cm1:llm:n:kold")

    await backend.put("cm1:llm:n:knew", record())

    assert [key async for key in backend.scan()] == ["cm1:llm:n:knew"]


async def test_eviction_is_told_with_its_namespace() -> None:
    heard: list[Event] = []
    backend = MemoryBackend(max_size=1, listener=heard.append)

    await backend.put_many({"cm1:llm:shop:ka": record(), "cm1:llm:shop:kb": record()})

    assert heard == [RemoveEvent(reason="evicted", namespace="shop", count=1)]


@pytest.mark.parametrize("chosen", [CacheBackend.MEMORY, CacheBackend.DISK, CacheBackend.REDIS])
async def test_configuration_chooses_the_backend(chosen: CacheBackend, tmp_path: object) -> None:
    backend = open_backend(CacheConfig(backend=chosen, disk_path=str(tmp_path)))

    assert backend.name == chosen.value
    await backend.aclose()
