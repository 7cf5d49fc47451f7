"""What one process stores or deletes, another that runs finds or misses: two real processes on one Redis."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cache_management import CacheConfig, CacheManager, LLMCache, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.semantic.matcher import SimilarityMatcher

TIMES = 100
WITHIN_SECONDS = 0.1
OTHER = "tests.cache.semantic.storing_process"


class Other:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, what: str, prompt: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {prompt}\n".encode())
        await self._process.stdin.drain()

    async def says(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.wait_for(self._process.stdout.readline(), 30)).decode().strip()


@asynccontextmanager
async def other_process(url: str) -> AsyncIterator[Other]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", OTHER, url, stdin=pipe, stdout=pipe)
    other = Other(process)
    try:
        assert await other.says() == "ready"
        yield other
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def test_a_change_is_seen_by_meaning_within_100_ms(redis_url: str) -> None:
    cache = LLMCache(CacheConfig(url=redis_url, strict=True, timeout_seconds=10))
    matcher = SimilarityMatcher(SimilarityConfig(), backend=cache.backend, embedder=HashingEmbedder())
    async with CacheManager(cache, matcher) as manager, other_process(redis_url) as other:
        await manager.lookup("connects")

        async def until(hit: bool, asked: str) -> float:
            """Look up until it is a hit, or none; return when that was."""
            while (await manager.lookup(asked)).hit is not hit:
                await asyncio.sleep(0)
            return time.monotonic()

        delays: dict[str, list[float]] = {"store": [], "delete": []}
        for at in range(TIMES):
            prompt, reworded = f"how do I reset word{at} of it", f"word{at} of it, how do I reset"
            for what, hit in (("store", True), ("delete", False)):
                await other.tell(what, prompt)
                async with asyncio.timeout(30):
                    seen = await until(hit, reworded)
                delays[what].append(seen - float(await other.says()))

    for what, seconds in delays.items():
        late = sorted(seconds)[TIMES * 99 // 100 - 1]
        assert late < WITHIN_SECONDS, f"99 of 100 were seen {late * 1000:.0f} ms after {what}"
