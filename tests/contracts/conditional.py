"""What every backend promises that writes only over what the writer has read."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest

from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.records import Record
from tests.contracts.clock import ManualClock

KEY = "cm1:bok:contract:kone"
WRITERS, TURNS = 4, 8


class ConditionalContract(ABC):
    """Inherit it, and say in `make` how the backend is opened with `self.clock`."""

    @abstractmethod
    async def make(self) -> FullBackend: ...

    def setup_method(self) -> None:
        self.clock = ManualClock()

    @pytest.fixture
    async def backend(self) -> AsyncIterator[FullBackend]:
        backend = await self.make()
        yield backend
        await backend.delete(KEY)
        await backend.aclose()

    def record(self, text: str, version: int, *, life: float | None = None) -> Record:
        return Record(text.encode(), None if life is None else self.clock() + life, version)

    async def text(self, backend: FullBackend) -> str | None:
        found = await backend.get(KEY)
        return None if found is None else found.value.decode()

    async def test_a_record_is_stored_where_nothing_is_and_once(self, backend: FullBackend) -> None:
        assert await backend.put_if(KEY, self.record("first", 1), expected=None)
        assert not await backend.put_if(KEY, self.record("second", 2), expected=None)
        assert await self.text(backend) == "first"

    async def test_a_record_is_stored_over_the_version_that_was_read(self, backend: FullBackend) -> None:
        await backend.put(KEY, self.record("first", 7))

        assert not await backend.put_if(KEY, self.record("wrong", 8), expected=6)
        assert await backend.put_if(KEY, self.record("right", 9), expected=7)
        assert not await backend.put_if(KEY, self.record("again", 10), expected=7)
        assert await self.text(backend) == "right"

    async def test_nothing_is_stored_over_what_is_gone(self, backend: FullBackend) -> None:
        await backend.put(KEY, self.record("first", 7))
        await backend.delete(KEY)

        assert not await backend.put_if(KEY, self.record("second", 8), expected=7)
        assert await self.text(backend) is None

    async def test_negative_and_large_versions_are_told_apart(self, backend: FullBackend) -> None:
        for version, other in ((-1, 255), (2**62, 2**62 + 1), (0, 256)):
            await backend.put(KEY, self.record("first", version))
            assert not await backend.put_if(KEY, self.record("x", other), expected=other)
            assert await backend.put_if(KEY, self.record("y", 3), expected=version)

    async def test_a_record_is_removed_if_it_has_the_version(self, backend: FullBackend) -> None:
        await backend.put(KEY, self.record("first", 7))

        assert not await backend.delete_if(KEY, expected=8)
        assert await self.text(backend) == "first"
        assert await backend.delete_if(KEY, expected=7)
        assert not await backend.delete_if(KEY, expected=7)
        assert await self.text(backend) is None

    async def test_what_is_expired_for_the_writer_counts_as_nothing(self, backend: FullBackend) -> None:
        await backend.put(KEY, self.record("first", 7, life=60))
        self.clock.advance(61)

        assert not await backend.put_if(KEY, self.record("wrong", 8), expected=7)
        assert not await backend.delete_if(KEY, expected=7)
        assert await backend.put_if(KEY, self.record("second", 9, life=60), expected=None)
        assert await self.text(backend) == "second"

    async def test_an_expired_record_is_stored_as_absent(self, backend: FullBackend) -> None:
        await backend.put(KEY, self.record("first", 7))

        await backend.put_if(KEY, self.record("past", 8, life=-1), expected=7)

        assert await self.text(backend) is None

    async def test_no_change_of_many_writers_is_lost(self, backend: FullBackend) -> None:
        async def write() -> None:
            for _ in range(TURNS):
                while True:
                    held = await backend.get(KEY)
                    count = 0 if held is None else int(held.value)
                    version = None if held is None else held.version
                    record = self.record(str(count + 1), count + 1)
                    if await backend.put_if(KEY, record, expected=version):
                        break
                    await asyncio.sleep(0)

        await asyncio.gather(*(write() for _ in range(WRITERS)))

        assert await self.text(backend) == str(WRITERS * TURNS)
