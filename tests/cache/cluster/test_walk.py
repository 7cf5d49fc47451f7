"""Walks through several nodes: each key once, and none left out when a node goes away in between."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis

from cache_management.cache.cluster.bookmarks import Bookmark
from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.cluster.levelling import ENTRY
from cache_management.cache.cluster.walk import Walk
from tests.conftest import OwnRedisFactory

COUNT = 300


@pytest.fixture
async def walk(cache: DistributedCache) -> Walk:
    """A walk through entries that were stored a moment ago."""
    await cache.set_many({f"key {at}": "v" for at in range(COUNT)})
    await cache.backend.keeper.aclose()
    return Walk(cache.backend.membership)


async def test_what_was_stored_a_moment_ago_is_shown_once(walk: Walk) -> None:
    shown: Counter[str] = Counter()
    bookmark: str | None = ""
    while bookmark is not None:
        keys, bookmark = await walk.page(ENTRY, "", bookmark, 50)
        shown.update(keys)

    assert len(shown) == COUNT
    assert set(shown.values()) == {1}


async def test_what_was_left_to_a_node_that_goes_away_is_shown_by_the_others(walk: Walk, nodes: list[str]) -> None:
    shown: list[str] = []
    bookmark: str | None = ""
    is_away = False
    while bookmark is not None:
        if not is_away and len(Bookmark.read_text(bookmark).read) == 2:
            is_away = True
            assert shown == [], "all of it was left to the last node"
            with Redis.from_url(f"redis://{sorted(nodes)[-1]}") as client:
                client.flushall()
        keys, bookmark = await walk.page(ENTRY, "", bookmark, 50)
        shown += keys

    assert is_away
    assert len(set(shown)) == COUNT


async def test_a_node_that_is_away_from_the_beginning_makes_nothing_be_shown_twice(
    walk: Walk, nodes: list[str]
) -> None:
    with Redis.from_url(f"redis://{sorted(nodes)[-1]}") as client:
        client.flushall()
    shown: Counter[str] = Counter()
    bookmark: str | None = ""
    while bookmark is not None:
        keys, bookmark = await walk.page(ENTRY, "", bookmark, 50)
        shown.update(keys)

    assert len(shown) == COUNT
    assert set(shown.values()) == {1}


async def test_what_was_left_to_a_node_that_is_removed_is_shown_by_the_others(
    cache: DistributedCache, walk: Walk, own_redis: OwnRedisFactory, nodes: list[str]
) -> None:
    last = sorted([*nodes, fourth := f"127.0.0.1:{own_redis().port}"])[-1]
    await cache.backend.keeper.moves.add(fourth)
    await cache.backend.keeper.moves.finish()
    shown: list[str] = []
    bookmark: str | None = ""
    is_gone = False
    while bookmark is not None:
        if not is_gone and len(Bookmark.read_text(bookmark).read) == 3:
            is_gone = True
            assert len(shown) < COUNT, "the rest was left to the last node"
            await cache.backend.keeper.moves.remove(last)
            await cache.backend.keeper.moves.finish()
        keys, bookmark = await walk.page(ENTRY, "", bookmark, 50)
        shown += keys

    assert is_gone
    assert len(set(shown)) == COUNT
