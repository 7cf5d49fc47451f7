from __future__ import annotations

import msgspec
import pytest

from cache_management import CacheConfig, ReasoningCache
from cache_management.cache.backends import enclose
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.errors import BackendRefused, InvalidEntry
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


def sealed(letter: str) -> CacheConfig:
    return CacheConfig(url="memory://", encryption_keys=f"{letter}: {letter * 43}=")


async def test_what_is_sealed_with_another_key_is_not_replaced() -> None:
    store = MemoryBackend(max_size=100)
    first, second = sealed("A"), sealed("E")
    async with ReasoningCache(first, backend=enclose(store, first)) as cache:
        await cache.set("k", chain("one"))
        async with ReasoningCache(second, backend=enclose(store, second)) as stranger:
            assert await stranger.get("k") is None
            with pytest.raises(BackendRefused, match="another encryption key"):
                await stranger.append(stranger.root("a problem"), "two")
            assert await stranger.set("other", chain("two")) == (), "an app goes on"

        assert await cache.get("k") == chain("one")
        assert await cache.forget_problem("a problem")
        assert await cache.get("k") is None


async def test_a_book_of_a_later_layout_is_not_replaced() -> None:
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        later = msgspec.msgpack.encode([99, "a problem", [], [], []])
        name = cache.shelf.storage_key(problem_id("a problem"))
        await cache.backend.put(name, Record(later, None, 1))

        with pytest.raises(InvalidEntry, match="layout 99"):
            await cache.set("k", chain("one"))
        found = await cache.backend.get(name)
        assert found is not None
        assert found.value == later
