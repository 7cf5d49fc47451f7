from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from tests.gateway.upstream import LocalUpstream, served


class _Current:
    """Hands requests to the provider of the test that runs; starting a server for each test takes most of its time."""

    def __init__(self) -> None:
        self.app = LocalUpstream()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[tuple[_Current, int]]:
    current = _Current()
    with served(current) as port:
        yield current, port


@pytest.fixture
def upstream(upstream_server: tuple[_Current, int]) -> Iterator[LocalUpstream]:
    """A provider on a loopback port."""
    current, port = upstream_server
    current.app = LocalUpstream()
    current.app.port = port
    yield current.app
    current.app.release()


@pytest.fixture
async def manager() -> AsyncIterator[CacheManager]:
    """A cache in memory, without meaning."""
    async with CacheManager(LLMCache(CacheConfig(url="memory://"))) as made:
        yield made
