"""What every implementation of leases, of tags and of a stash promises."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cache_management.cache.backends.base import Backend, Leases, Stash, Tags
from cache_management.cache.records import Record
from tests.contracts.clock import ManualClock

NAME = "cm1:lease:contract:work"
TAG = "cm1:tag:contract:news"
PIECE = "cm1:stash:contract:piece"


class LeasesContract(ABC):
    """Inherit it, and say in `make_leases` how it is opened with `self.clock`."""

    @abstractmethod
    async def make_leases(self) -> Leases: ...

    @abstractmethod
    async def expire(self, name: str) -> None:
        """Let the lease under a name reach its end."""

    def setup_method(self) -> None:
        self.clock = ManualClock()

    @pytest.fixture
    async def leases(self) -> AsyncIterator[Any]:
        leases = await self.make_leases()
        yield leases
        if hasattr(leases, "aclose"):
            await leases.aclose()

    async def test_a_held_name_is_refused(self, leases: Leases) -> None:
        assert await leases.acquire(NAME, owner="a", ttl_seconds=30) is not None

        assert await leases.acquire(NAME, owner="b", ttl_seconds=30) is None
        assert await leases.acquire(NAME, owner="a", ttl_seconds=30) is None, "taken is taken, by the holder too"

    async def test_other_names_are_free(self, leases: Leases) -> None:
        await leases.acquire(NAME, owner="a", ttl_seconds=30)

        assert await leases.acquire(NAME + "2", owner="b", ttl_seconds=30) is not None

    async def test_a_released_name_is_free_and_its_next_token_is_larger(self, leases: Leases) -> None:
        first = await leases.acquire(NAME, owner="a", ttl_seconds=30)
        assert await leases.release(NAME, owner="a")

        second = await leases.acquire(NAME, owner="b", ttl_seconds=30)

        assert first is not None
        assert second is not None
        assert second > first

    async def test_only_the_owner_releases_and_renews(self, leases: Leases) -> None:
        await leases.acquire(NAME, owner="a", ttl_seconds=30)

        assert not await leases.release(NAME, owner="b")
        assert not await leases.renew(NAME, owner="b", ttl_seconds=30)
        assert await leases.renew(NAME, owner="a", ttl_seconds=30)
        assert await leases.acquire(NAME, owner="b", ttl_seconds=30) is None

    async def test_an_expired_lease_is_lost(self, leases: Leases) -> None:
        await leases.acquire(NAME, owner="a", ttl_seconds=30)
        await self.expire(NAME)

        assert not await leases.renew(NAME, owner="a", ttl_seconds=30)
        assert not await leases.release(NAME, owner="a")
        assert await leases.acquire(NAME, owner="b", ttl_seconds=30) is not None

    async def test_of_many_callers_one_gets_it(self, leases: Leases) -> None:
        tokens = await asyncio.gather(*(leases.acquire(NAME, owner=f"owner{at}", ttl_seconds=30) for at in range(50)))

        assert sum(token is not None for token in tokens) == 1


class TagsContract(ABC):
    """Inherit it, and say in `make_tags` how it is opened with `self.clock`."""

    @abstractmethod
    async def make_tags(self) -> Tags: ...

    def setup_method(self) -> None:
        self.clock = ManualClock()

    @pytest.fixture
    async def tags(self) -> AsyncIterator[Any]:
        tags = await self.make_tags()
        yield tags
        if hasattr(tags, "aclose"):
            await tags.aclose()

    async def test_tagged_keys_are_found_by_tag(self, tags: Tags) -> None:
        soon = self.clock.now + 60
        await tags.add_tags({TAG: {"k1": soon, "k2": soon}, TAG + "2": {"k2": soon}})

        assert sorted(await tags.tagged(TAG)) == ["k1", "k2"]
        assert await tags.tagged(TAG + "2") == ["k2"]
        assert await tags.tagged(TAG + "3") == []

    async def test_expired_keys_are_left_out(self, tags: Tags) -> None:
        await tags.add_tags({TAG: {"short": self.clock.now + 10, "long": self.clock.now + 1000}})
        self.clock.advance(11)

        assert await tags.tagged(TAG) == ["long"]

    async def test_tagging_again_moves_the_expiry(self, tags: Tags) -> None:
        await tags.add_tags({TAG: {"k": self.clock.now + 10}})
        await tags.add_tags({TAG: {"k": self.clock.now + 1000}})
        self.clock.advance(11)

        assert await tags.tagged(TAG) == ["k"]

    @pytest.mark.keeps_keys
    async def test_keys_that_never_expire_stay(self, tags: Tags) -> None:
        await tags.add_tags({TAG: {"k": None, "short": self.clock.now + 10}})
        self.clock.advance(10 * 365 * 24 * 3600)

        assert await tags.tagged(TAG) == ["k"]

    async def test_removed_keys_are_forgotten(self, tags: Tags) -> None:
        await tags.add_tags({TAG: {"k1": self.clock.now + 60, "k2": self.clock.now + 60}})

        await tags.remove_tags({TAG: ["k1", "unknown"], TAG + "2": ["k1"]})

        assert await tags.tagged(TAG) == ["k2"]

    async def test_pages_hold_every_key_of_a_tag_and_no_other(self, tags: Tags) -> None:
        keys = {f"k{at}": self.clock.now + 60 for at in range(700)}
        await tags.add_tags({TAG: {**keys, "short": self.clock.now + 1}, TAG + "2": {"other": self.clock.now + 60}})
        self.clock.advance(2)

        pages = await self.walk(lambda bookmark: tags.tagged_page(TAG, bookmark, 100))

        assert {key for page in pages for key in page} == set(keys)
        assert len(pages) > 3
        assert await tags.tagged_page(TAG + "3", "", 100) == ([], None)

    async def test_pages_hold_every_tag_with_a_prefix(self, tags: Tags) -> None:
        names = {f"{TAG}:{at}" for at in range(120)}
        await tags.add_tags({name: {"k": self.clock.now + 60} for name in [*names, "cm1:tag:other:*"]})

        pages = await self.walk(lambda bookmark: tags.tags_page(TAG + ":", bookmark, 20))

        assert {name for page in pages for name in page} == names

    async def walk(self, page: Callable[[str], Awaitable[tuple[list[str], str | None]]]) -> list[list[str]]:
        pages = []
        bookmark: str | None = ""
        while bookmark is not None:
            found, bookmark = await page(bookmark)
            pages.append(found)
        return pages

    async def test_many_keys_under_one_tag(self, tags: Tags) -> None:
        keys = {f"k{at}": self.clock.now + 60 for at in range(2_000)}

        await tags.add_tags({TAG: keys})
        await tags.remove_tags({TAG: [f"k{at}" for at in range(1_500)]})

        assert len(await tags.tagged(TAG)) == 500


class StashContract(ABC):
    """Inherit it, and say in `make_stash` how it is opened with `self.clock`."""

    @abstractmethod
    async def make_stash(self) -> Stash: ...

    @abstractmethod
    async def expire(self, name: str) -> None:
        """Let the piece under a name reach its end."""

    def setup_method(self) -> None:
        self.clock = ManualClock()

    @pytest.fixture
    async def stash(self) -> AsyncIterator[Any]:
        stash = await self.make_stash()
        yield stash
        if hasattr(stash, "aclose"):
            await stash.aclose()

    async def test_a_piece_comes_back_until_it_is_dropped(self, stash: Stash) -> None:
        assert await stash.stashed(PIECE) is None
        await stash.drop_stashed([PIECE])

        await stash.stash(PIECE, b"first", ttl_seconds=60)
        await stash.stash(PIECE, b"\x00second", ttl_seconds=60)
        await stash.stash(PIECE + "2", b"other", ttl_seconds=60)

        assert await stash.stashed(PIECE) == b"\x00second"
        await stash.drop_stashed([PIECE, PIECE + "unknown"])
        assert await stash.stashed(PIECE) is None
        assert await stash.stashed(PIECE + "2") == b"other"

    async def test_a_large_piece_comes_back_whole(self, stash: Stash) -> None:
        piece = b"0123456789abcdef" * 2**18  # 4 MiB

        await stash.stash(PIECE, piece, ttl_seconds=60)

        assert await stash.stashed(PIECE) == piece

    async def test_an_expired_piece_is_gone(self, stash: Stash) -> None:
        await stash.stash(PIECE, b"piece", ttl_seconds=30)

        await self.expire(PIECE)

        assert await stash.stashed(PIECE) is None

    async def test_entries_do_not_see_it_and_do_not_give_way_to_it(self, stash: Any) -> None:
        if not isinstance(stash, Backend):
            pytest.skip("keeps no entries")
        record = Record(b"value", self.clock.now + 60, 1)
        await stash.put("cm1:llm:contract:ka", record)

        for at in range(20):  # more than the entries that a small store may hold
            await stash.stash(f"{PIECE}{at}", b"x" * 200_000, ttl_seconds=60)

        assert [key async for key in stash.scan("cm1:llm:")] == ["cm1:llm:contract:ka"]
        assert await stash.count("cm1:llm:") == 1
        assert await stash.get("cm1:llm:contract:ka") == record
