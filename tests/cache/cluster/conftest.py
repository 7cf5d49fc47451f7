"""Three nodes, shared by the tests of one worker and emptied before each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
from redis import Redis

from cache_management.cache.cluster.distributed import DistributedCache
from cache_management.cache.config import CacheBackend, CacheConfig, ReplicationConfig
from cache_management.services import Server, start_redis
from tests.conftest import start_or_skip, temporary_folder

PATIENT = CacheConfig(backend=CacheBackend.REDIS, timeout_seconds=5.0, strict=True)


@pytest.fixture(scope="session")
def three_servers() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        servers = []
        for _ in range(3):
            folder = stack.enter_context(temporary_folder())
            server = start_or_skip(lambda folder=folder: start_redis(folder))  # type: ignore[misc]
            stack.callback(server.stop)
            servers.append(server)
        yield servers


@pytest.fixture
def nodes(three_servers: list[Server]) -> list[str]:
    """The addresses of three empty nodes."""
    for server in three_servers:
        with Redis.from_url(server.url) as client:
            client.flushall()
    return [f"127.0.0.1:{server.port}" for server in three_servers]


@pytest.fixture
async def cache(nodes: list[str]) -> AsyncIterator[DistributedCache]:
    """Three copies, quorum; everything raises."""
    async with DistributedCache(nodes, replication_config=ReplicationConfig(replicas=2), config=PATIENT) as cache:
        yield cache
