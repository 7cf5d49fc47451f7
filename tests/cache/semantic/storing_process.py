"""A process that stores and deletes entries as it is told, one line each. Run by test_between_processes.py."""

from __future__ import annotations

import asyncio
import sys
import time

from cache_management import CacheConfig, CacheManager, LLMCache, SimilarityConfig
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.semantic.matcher import SimilarityMatcher


async def main(url: str) -> None:
    cache = LLMCache(CacheConfig(url=url, strict=True, timeout_seconds=10))
    matcher = SimilarityMatcher(SimilarityConfig(), backend=cache.backend, embedder=HashingEmbedder())
    async with CacheManager(cache, matcher) as manager:
        await manager.lookup("connects")
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, prompt = line.strip().split(" ", 1)
            if what == "store":
                await manager.store(prompt, "answer")
            else:
                await cache.delete(prompt)
            # The clock of the machine, the same in every process.
            print(time.monotonic(), flush=True)


asyncio.run(main(sys.argv[1]))
