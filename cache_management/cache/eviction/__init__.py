"""What goes first when a store is full."""

from __future__ import annotations

from typing import assert_never

from cache_management.cache.config import EvictionPolicy
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.eviction.lru import LruEvictor
from cache_management.cache.eviction.ttl import TtlEvictor


def make_evictor(policy: EvictionPolicy) -> Evictor:
    """Return a fresh evictor for a policy."""
    match policy:
        case EvictionPolicy.LRU:
            return LruEvictor()
        case EvictionPolicy.LFU:
            return LfuEvictor()
        case EvictionPolicy.TTL:
            return TtlEvictor()
        case _:
            assert_never(policy)
