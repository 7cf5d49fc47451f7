"""Every store writes only over what its writer has read."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, ClassVar

import pytest
from redis import Redis

from cache_management.cache.backends import open_backend
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.config import CacheConfig
from tests.cache.backends.test_redis_cluster import OnCluster
from tests.contracts.conditional import KEY, ConditionalContract

PATIENT_SECONDS = 20.0
KEYS = f"first: {base64.b64encode(bytes(range(32))).decode()}"


class Opened(ConditionalContract):
    options: ClassVar[dict[str, Any]] = {}
    url = "memory://"

    async def make(self) -> FullBackend:
        config = CacheConfig(url=self.url, namespace="contract", timeout_seconds=PATIENT_SECONDS, **self.options)
        backend = open_backend(config, clock=self.clock)
        assert isinstance(backend, FullBackend)
        return backend


class TestMemory(Opened):
    pass


class TestDisk(Opened):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.url = f"disk://{tmp_path}"


class TestRedis(Opened):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def test_what_is_no_record_is_stored_over(self, backend: FullBackend) -> None:
        for foreign in (b"", b"x" * 100):
            with Redis.from_url(self.url) as client:
                client.set(KEY, foreign)
            assert await backend.put_if(KEY, self.record("first", 1), expected=None)
            assert await self.text(backend) == "first"


class TestMemoryInFrontOfEncryptedRedis(TestRedis):
    options: ClassVar[dict[str, Any]] = {"near_max_size": 1000, "encryption_keys": KEYS}


class TestMemoryInFrontOfDisk(TestDisk):
    options: ClassVar[dict[str, Any]] = {"near_max_size": 1000}


class TestRedisCluster(OnCluster, ConditionalContract):
    async def make(self) -> FullBackend:
        return self.opened()
