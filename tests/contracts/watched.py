"""What every store that tells of changes promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

import pytest

from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.records import Record
from tests.contracts.clock import ManualClock
from tests.waiting import eventually

PREFIX = "cm1:llm:watched:"
KEY = PREFIX + "kquestion"


class WatchedContract(ABC):
    """Inherit it, and say in `make` how two objects over one store are opened."""

    @abstractmethod
    async def make(self) -> FullBackend: ...

    def setup_method(self) -> None:
        self.clock = ManualClock()
        self.told: list[Sequence[str] | None] = []

    @pytest.fixture
    async def watching(self) -> AsyncIterator[FullBackend]:
        backend = await self.make()
        backend.watch([PREFIX], self.told.append)
        await backend.get(KEY)
        yield backend
        await backend.aclose()

    @pytest.fixture
    async def other(self) -> AsyncIterator[FullBackend]:
        backend = await self.make()
        yield backend
        await backend.aclose()

    def record(self, value: bytes = b"value") -> Record:
        return Record(value=value, expires_at=self.clock.now + 3600, version=1)

    async def heard_of(self, backend: FullBackend, key: str) -> bool:
        """Ask as a tier does: a store may look for changes only when it is asked."""
        return backend.is_current() and any(keys is None or key in keys for keys in self.told)

    async def test_after_a_read_copies_are_current(self, watching: FullBackend) -> None:
        assert watching.is_current()

    async def test_a_write_elsewhere_is_told(self, watching: FullBackend, other: FullBackend) -> None:
        self.told.clear()

        await other.put(KEY, self.record())

        await eventually(lambda: self.heard_of(watching, KEY))

    async def test_an_overwrite_elsewhere_is_told(self, watching: FullBackend, other: FullBackend) -> None:
        await watching.put(KEY, self.record(b"old"))
        self.told.clear()

        await other.put_many({KEY: self.record(b"new")})

        await eventually(lambda: self.heard_of(watching, KEY))

    async def test_a_removal_elsewhere_is_told(self, watching: FullBackend, other: FullBackend) -> None:
        await watching.put(KEY, self.record())
        self.told.clear()

        await other.delete_many([KEY])

        await eventually(lambda: self.heard_of(watching, KEY))

    async def test_every_change_is_told_not_the_first_only(self, watching: FullBackend, other: FullBackend) -> None:
        for number in range(3):
            await watching.get(KEY)
            self.told.clear()

            await other.put(KEY, self.record(b"%d" % number))

            await eventually(lambda: self.heard_of(watching, KEY))


class EvictingWatchedContract(WatchedContract):
    """For stores that make room by themselves: nobody else can tell what went then.

    A delete that comes later finds nothing and changes nothing, so no other process would be heard of.
    """

    @abstractmethod
    async def make_small(self) -> FullBackend:
        """Open one that keeps some entries, and not 200."""

    async def test_what_it_evicts_itself_is_told(self) -> None:
        backend = await self.make_small()
        backend.watch([PREFIX], self.told.append)
        await backend.put(KEY, self.record())
        await backend.get(PREFIX + "kabsent")
        assert backend.is_current()
        self.told.clear()

        for number in range(200):
            await backend.put(f"{PREFIX}k{number}", self.record(bytes(1000)))

        await eventually(lambda: self.heard_of(backend, KEY))
        assert await backend.get(KEY) is None
        await backend.aclose()
