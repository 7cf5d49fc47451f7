"""A quick look at the cache store, for metrics: whether it answers, how full it is, and how its nodes stand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from cache_management.cache.cluster.standing import NodeStanding, look_over
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import BackendRefused
from cache_management.settings import Settings
from cache_management.wiring import open_platform


class StoreView(msgspec.Struct, frozen=True):
    """How a store stands; bytes are None where it does not say, `limit_bytes` 0 where there is no limit."""

    used_bytes: int | None = None
    limit_bytes: int | None = None
    nodes: tuple[NodeStanding, ...] = ()


def is_unmade(settings: Settings) -> bool:
    """Tell whether the store is a file that is not there yet: looking at it would make it."""
    if settings.distributed.enabled or settings.backend is not CacheBackend.DISK:
        return False
    return not _file(settings).exists()


def look_at_store(settings: Settings, *, timeout_seconds: float) -> StoreView:
    """Return how the store of the entries stands; it changes nothing, and makes no store that is not there yet.

    Raises:
        BackendUnavailable: It does not answer.
    """
    # A node that stands still is waited for several times, one after the other.
    each = timeout_seconds / 3 if settings.distributed.enabled else timeout_seconds
    return asyncio.run(_look(settings.model_copy(update={"strict": True, "timeout_seconds": each})))


async def _look(settings: Settings) -> StoreView:
    if is_unmade(settings):
        return StoreView(0, settings.disk_size_limit)
    platform = open_platform(settings)
    try:
        if settings.distributed.enabled:
            standing = await look_over(platform.replicated.backend.membership)
            return StoreView(
                sum(node.used_bytes or 0 for node in standing.nodes),
                sum(node.limit_bytes or 0 for node in standing.nodes),
                standing.nodes,
            )
        await platform.llm_cache.backend.ping()
        return await _fill(settings)
    finally:
        await platform.aclose()


async def _fill(settings: Settings) -> StoreView:
    if settings.backend is CacheBackend.DISK:
        return StoreView(_file(settings).stat().st_size, settings.disk_size_limit)
    if settings.backend is not CacheBackend.REDIS or settings.is_cluster or settings.sentinels:
        return StoreView()
    from cache_management.cache.backends.redis_node import RedisNode

    node = RedisNode(settings)
    try:
        lines = (line.partition(":") for line in (await node.call("INFO", "memory")).decode().splitlines())
        said = {name: value for name, colon, value in lines if colon}
        limits = [limit for limit in (int(said.get("maxmemory", 0)), settings.redis_memory_limit or 0) if limit]
        return StoreView(int(said.get("used_memory", 0)), min(limits, default=0))
    except BackendRefused:
        return StoreView()  # a user with few rights
    finally:
        await node.aclose()


def _file(settings: Settings) -> Path:
    return settings.disk_path / "cache.sqlite"
