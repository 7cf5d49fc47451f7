"""One process of a stampede: many callers for one cold key. Run by test_stampede.py."""

from __future__ import annotations

import asyncio
import os
import sys

import redis.asyncio

from cache_management import CacheConfig, LLMCache


async def main(url: str, callers: int, seconds: float) -> None:
    control = redis.asyncio.Redis.from_url(url)
    cache = LLMCache(CacheConfig(url=url, timeout_seconds=10))

    async def compute() -> str:
        await control.rpush("test:computing", os.getpid())
        await asyncio.sleep(seconds)  # a model at work
        return "the answer"

    await cache.get("connects")
    await control.incr("test:ready")
    while not await control.exists("test:go"):
        await asyncio.sleep(0.005)
    answers = await asyncio.gather(*(cache.get_or_compute("cold key", compute) for _ in range(callers)))
    assert {answer.response for answer in answers} == {"the answer"}
    await cache.aclose()
    await control.aclose()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
