"""Leases, tags and the stash on every backend that has them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
import redis

from cache_management.cache.backends.base import Leases, Stash, Tags
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.local_leases import LocalLeases
from cache_management.cache.backends.local_tags import LocalTags
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.redis import RedisBackend
from cache_management.cache.config import CacheConfig
from tests.contracts.coordination import PIECE, TAG, LeasesContract, StashContract, TagsContract


class TestLocalLeases(LeasesContract):
    async def make_leases(self) -> Leases:
        return LocalLeases(self.clock)

    async def expire(self, name: str) -> None:
        self.clock.advance(31)


class TestDiskLeases(LeasesContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path

    async def make_leases(self) -> Leases:
        return DiskBackend(self.path, max_size=10, size_limit_bytes=10**6, timeout_seconds=5, clock=self.clock)

    async def expire(self, name: str) -> None:
        self.clock.advance(31)

    async def test_leases_that_ended_leave_no_rows(self, leases: DiskBackend) -> None:
        for at in range(50):
            await leases.acquire(f"lease{at}", owner="a", ttl_seconds=1)
            self.clock.advance(2)

        with sqlite3.connect(leases.path) as db:
            assert db.execute("SELECT count(*) FROM leases").fetchone()[0] <= 2
        db.close()


class TestRedisLeases(LeasesContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_leases(self) -> Leases:
        return RedisBackend(CacheConfig(url=self.url, timeout_seconds=20))

    async def expire(self, name: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.delete(name)

    async def test_a_server_that_forgot_the_scripts_is_taught_again(self, leases: Leases) -> None:
        assert await leases.acquire("lease", owner="a", ttl_seconds=30)
        with redis.Redis.from_url(self.url) as client:
            client.script_flush()

        assert await leases.renew("lease", owner="a", ttl_seconds=30)


class TestLocalTags(TagsContract):
    async def make_tags(self) -> Tags:
        return LocalTags(self.clock)

    async def test_expired_keys_do_not_pile_up(self, tags: LocalTags) -> None:
        for at in range(5_000):
            await tags.add_tags({TAG: {f"k{at}": self.clock.now + 10}})
            self.clock.advance(1)

        assert len(tags._tags[TAG]) < 200


class TestDiskTags(TagsContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path

    async def make_tags(self) -> Tags:
        return DiskBackend(self.path, max_size=10, size_limit_bytes=10**6, timeout_seconds=5, clock=self.clock)


class TestRedisTags(TagsContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_tags(self) -> Tags:
        return RedisBackend(CacheConfig(url=self.url, timeout_seconds=20), clock=self.clock)


class TestMemoryStash(StashContract):
    async def make_stash(self) -> Stash:
        return MemoryBackend(max_size=1, memory_limit=100_000, clock=self.clock)

    async def expire(self, name: str) -> None:
        self.clock.advance(31)


class TestDiskStash(StashContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path

    async def make_stash(self) -> Stash:
        return DiskBackend(self.path, max_size=1, size_limit_bytes=100_000, timeout_seconds=5, clock=self.clock)

    async def expire(self, name: str) -> None:
        self.clock.advance(31)

    async def test_what_expired_leaves_no_rows(self, stash: DiskBackend) -> None:
        for at in range(5):
            await stash.stash(f"{PIECE}{at}", b"piece", ttl_seconds=1)
            self.clock.advance(2)

        with sqlite3.connect(stash.path) as db:
            assert db.execute("SELECT count(*) FROM stash").fetchone()[0] == 1
        db.close()


class TestRedisStash(StashContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_stash(self) -> Stash:
        self.clock.now = time.time()
        return RedisBackend(CacheConfig(url=self.url, timeout_seconds=20, redis_memory_limit=100_000))

    async def expire(self, name: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            assert 29_000 < client.pttl(name) <= 30_000
            client.delete(name)
