"""Counts what the caches tell, so that `get_stats()` needs no metrics library."""

from __future__ import annotations

from cache_management.cache.events import (
    CorruptEvent,
    Event,
    HitEvent,
    MissEvent,
    RemoveEvent,
    StoreEvent,
    UnavailableEvent,
)


class StatsCounter:
    """A listener that counts, since it was made, in this process."""

    def __init__(self) -> None:
        self.hits = 0
        self.semantic_hits = 0
        self.misses = 0
        self.stores = 0
        self.deletes = 0
        self.evictions = 0
        self.corrupt_records = 0
        self.backend_failures = 0
        self.tokens_saved = 0

    def __call__(self, event: Event) -> None:
        match event:
            case HitEvent(kind=kind, tokens=tokens):
                self.hits += 1
                self.tokens_saved += tokens
                self.semantic_hits += kind == "semantic"
            case MissEvent():
                self.misses += 1
            case StoreEvent():
                self.stores += 1
            case RemoveEvent(reason="delete", count=count):
                self.deletes += count
            case RemoveEvent(reason="evicted", count=count):
                self.evictions += count
            case CorruptEvent():
                self.corrupt_records += 1
            case UnavailableEvent():
                self.backend_failures += 1
            case _:
                pass
