"""What the tests of adapters share: managers over stores, and questions that mean the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cache_management.cache.backends.base import Backend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.config import CacheConfig, SimilarityConfig
from cache_management.cache.events import Event
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.values import CachedResponse

ASKED = "How many transfers are free each month?"
REWORDED = "Each month, how many transfers are free?"
OPPOSITE = "How many transfers are not free each month?"


def manager_on(
    backend: Backend | None = None,
    *,
    by_meaning: bool = False,
    heard: list[Event] | None = None,
    namespace: str = "default",
    **config: Any,
) -> CacheManager:
    """Make a manager; by default on a memory of its own, and without a matcher."""
    cache = LLMCache(
        CacheConfig(namespace=namespace, **config),
        backend=MemoryBackend(max_size=1000) if backend is None else backend,
        listener=None if heard is None else heard.append,
    )
    matcher = None
    if by_meaning:
        matcher = SimilarityMatcher(SimilarityConfig(model="hashing", threshold=0.6, namespace=namespace))
    return CacheManager(cache, matcher)


async def store_with_payload(manager: CacheManager, kept: dict[str, Any], **asked: Any) -> None:
    """Store an entry as whoever keeps more than a text does."""
    moment = datetime.fromtimestamp(manager.llm_cache.clock(), UTC)
    entry = CachedResponse(prompt="", response="text", model="m", timestamp=moment, token_count=0, metadata=kept)
    await manager.store(response=entry, **asked)
