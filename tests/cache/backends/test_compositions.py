"""The stores as `open_backend` puts them together keep the contract of a single one."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cache_management.cache.backends import open_backend
from cache_management.cache.backends.base import Backend
from cache_management.cache.config import CacheConfig
from tests.contracts.backend import BackendContract
from tests.contracts.clock import remove_expired

KEYS = f"first: {base64.b64encode(bytes(range(32))).decode()}"
PATIENT_SECONDS = 20.0


class Composed(BackendContract):
    options: ClassVar[dict[str, Any]]
    url: str

    async def make(self) -> Backend:
        config = CacheConfig(url=self.url, namespace="contract", timeout_seconds=PATIENT_SECONDS, **self.options)
        return open_backend(config, clock=self.clock)


class OnRedis(Composed):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        remove_expired(self.url, self.clock)


class OnDisk(Composed):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.url = f"disk://{tmp_path}"


class TestGuardedBatchingRedis(OnRedis):
    options: ClassVar[dict[str, Any]] = {}


class TestEncryptedRedis(OnRedis):
    options: ClassVar[dict[str, Any]] = {"encryption_keys": KEYS}


class TestMemoryInFrontOfRedis(OnRedis):
    options: ClassVar[dict[str, Any]] = {"near_max_size": 1000}


class TestMemoryInFrontOfEncryptedRedis(OnRedis):
    options: ClassVar[dict[str, Any]] = {"near_max_size": 1000, "encryption_keys": KEYS}


class TestEncryptedDisk(OnDisk):
    options: ClassVar[dict[str, Any]] = {"encryption_keys": KEYS}


class TestMemoryInFrontOfDisk(OnDisk):
    options: ClassVar[dict[str, Any]] = {"near_max_size": 1000}
