"""The three kinds of store that entries come from and go to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_management import LLMCache
from tests.cache.transfer.shelves import open_cache


@pytest.fixture(params=["memory", "disk", "redis"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LLMCache]:
    """An empty cache on each kind of store."""
    match request.param:
        case "memory":
            made = open_cache()
        case "disk":
            made = open_cache(url=f"disk://{tmp_path / 'store'}")
        case _:
            made = open_cache(url=request.getfixturevalue("redis_url"))
    async with made:
        yield made
