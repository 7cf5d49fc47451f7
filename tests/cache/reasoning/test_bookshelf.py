from __future__ import annotations

import pytest

from cache_management import CacheConfig, ReasoningCache
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.errors import InvalidEntry
from cache_management.cache.reasoning.step_identity import problem_id
from cache_management.cache.records import Record
from tests.cache.reasoning.results import chain


class BusyBackend(MemoryBackend):
    """Refuses new records as if somebody else was at it, who is done after some tries."""

    def __init__(self, theirs: Record) -> None:
        super().__init__(max_size=100)
        self.theirs = theirs
        self.left = 5

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        if self.left and ":bok:" in key:
            self.left -= 1
            if not self.left:
                await self.put(key, self.theirs)
            return False
        return await super().put_if(key, record, expected=expected)


async def test_a_book_that_another_began_meanwhile_is_not_removed() -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as other:
        await other.set("theirs", chain("one"))
        theirs = await other.backend.get(other.shelf.storage_key(problem_id("a problem")))
    assert theirs is not None

    async with ReasoningCache(CacheConfig(url="memory://"), backend=BusyBackend(theirs)) as cache:
        await cache.set("ours", chain("two"))

        assert [step.thought for step in await cache.children(cache.root("a problem"))] == ["one", "two"]


async def test_who_may_hold_less_does_not_replace_a_larger_book() -> None:
    backend = MemoryBackend(max_size=100)
    large = chain(*(f"step {at}" for at in range(500)))
    async with (
        ReasoningCache(CacheConfig(url="memory://"), backend=backend) as cache,
        ReasoningCache(CacheConfig(url="memory://", max_entry_bytes=1024), backend=backend) as smaller,
    ):
        await cache.set("k", large)

        with pytest.raises(InvalidEntry, match="max_entry_bytes"):
            await smaller.set("other", chain("one"))

        assert await smaller.get("k") is None
        assert await cache.get("k") == large
