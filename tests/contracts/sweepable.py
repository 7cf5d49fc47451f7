"""What every store promises that can be relieved from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest

from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.records import Head, Record
from tests.contracts.clock import ManualClock

PREFIX = "cm1:llm:contract:k"


class SweepableContract(ABC):
    """Inherit it, and say in `make` how the backend is opened with `self.clock`, with room for 1,000 entries."""

    @abstractmethod
    async def make(self) -> FullBackend: ...

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the backend; a server with a clock of its own needs more than this."""
        self.clock.advance(seconds)

    def setup_method(self) -> None:
        self.clock = ManualClock()

    @pytest.fixture
    async def backend(self) -> AsyncIterator[FullBackend]:
        backend = await self.make()
        yield backend
        await backend.aclose()

    def record(self, *, life: float = 3600, version: int = 1, size: int = 100) -> Record:
        return Record(value=b"x" * size, expires_at=self.clock.now + life, version=version)

    async def test_heads_tell_of_records_that_are_there(self, backend: FullBackend) -> None:
        await backend.put_many(
            {
                PREFIX + "small": self.record(life=12.25, version=2**62),
                PREFIX + "large": self.record(size=5_000),
                PREFIX + "gone": self.record(life=1),
            }
        )
        await self.pass_time(2)

        found = await backend.heads([PREFIX + name for name in ("small", "large", "gone", "absent")])

        assert set(found) == {PREFIX + "small", PREFIX + "large"}
        assert found[PREFIX + "small"] == Head(2**62, self.clock.now + 10.25, found[PREFIX + "small"].size_bytes)
        assert found[PREFIX + "large"].size_bytes - found[PREFIX + "small"].size_bytes == 4_900
        assert await backend.heads([]) == {}

    @pytest.mark.keeps_keys
    async def test_the_head_of_what_never_expires_says_so(self, backend: FullBackend) -> None:
        await backend.put(PREFIX + "a", Record(value=b"v", expires_at=None, version=-5))

        head = (await backend.heads([PREFIX + "a"]))[PREFIX + "a"]

        assert (head.version, head.expires_at) == (-5, None)

    @pytest.mark.parametrize("version", [0, 1, 255, 256, 2**32, 2**62, -1, -(2**40)])
    async def test_just_what_is_older_is_deleted(self, backend: FullBackend, version: int) -> None:
        near = {PREFIX + str(at): self.record(version=at) for at in (version - 256, version - 1, version, version + 1)}
        await backend.put_many(near)

        removed = await backend.delete_older([*near, PREFIX + "absent"], version)

        assert sorted(removed) == sorted([PREFIX + str(version - 256), PREFIX + str(version - 1)])
        assert await backend.get_many(list(near)) == {
            PREFIX + str(at): self.record(version=at) for at in (version, version + 1)
        }

    async def test_many_are_deleted_in_one_call_and_told_once(self, backend: FullBackend) -> None:
        names = [f"{PREFIX}{at}" for at in range(900)]
        await backend.put_many({name: self.record() for name in names})

        removed = await backend.delete_older([*names, *names[:10]], 2)

        assert sorted(removed) == sorted(names)
        assert await backend.count(PREFIX) == 0
        assert await backend.delete_older(names, 2) == []

    async def test_what_is_past_its_life_is_dropped_and_nothing_else(self, backend: FullBackend) -> None:
        await backend.put_many({f"{PREFIX}old{at}": self.record(life=60) for at in range(450)})
        await backend.put_many({f"{PREFIX}new{at}": self.record(life=600) for at in range(50)})
        await self.pass_time(60)

        bookmark: str | None = ""
        while bookmark is not None:
            swept, bookmark = await backend.drop_expired(bookmark, 100)
            assert swept.entries <= 200

        assert (await backend.surplus()).expired == 0
        assert await backend.count(PREFIX) == 50

    async def test_a_store_within_its_bounds_has_nothing_to_sweep(self, backend: FullBackend) -> None:
        await backend.put_many({f"{PREFIX}{at}": self.record() for at in range(950)})

        surplus = await backend.surplus()
        swept = await backend.sweep(surplus.aim, 100)

        assert (surplus.aim, surplus.entries, surplus.size_bytes) == ({}, 0, 0)
        assert (swept.entries, swept.is_done) == (0, True)
        assert await backend.count(PREFIX) == 950
