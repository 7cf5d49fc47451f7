"""One of several processes that think about one problem: `python reasoning_process.py URL NAME HOW`.

The URL may be "nodes:HOST:PORT,HOST:PORT,...": a replicated store. Says a line for each sample that it got. With HOW
"hang" it stands still in its first call of the model, with its place reserved; the test kills it there.
"""

from __future__ import annotations

import asyncio
import sys

from cache_management import CacheBackend, CacheConfig, DistributedCache, ReasoningCache
from cache_management.cache.reasoning.solving import expand

SAMPLES = 12
LEASE_SECONDS = 8.0  # a busy machine that also loses a node may take longer than two for one sample


def open_cache(url: str) -> ReasoningCache:
    """Return the cache of a URL."""
    if not url.startswith("nodes:"):
        return ReasoningCache(CacheConfig(url=url, timeout_seconds=20, strict=True))
    config = CacheConfig(backend=CacheBackend.REDIS, timeout_seconds=20, strict=True)
    nodes = DistributedCache(url.removeprefix("nodes:").split(","), config=config)
    return ReasoningCache(config, backend=nodes.backend)


async def main(url: str, name: str, how: str) -> None:
    async with open_cache(url) as cache:
        root = cache.root("a game", model="m")
        made = 0

        async def generate(count: int) -> list[str]:
            nonlocal made
            if how == "hang":
                print("hanging", flush=True)
                await asyncio.Event().wait()
            made += count
            return [f"{name} made {made - count + at}" for at in range(count)]

        for turn in range(SAMPLES):
            (step,) = await expand(cache, root, 1, generate, namespace="shared", lease_seconds=LEASE_SECONDS)
            print(step.thought, flush=True)
            await cache.append(root, [f"{name} adds {turn}", "and goes on"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
