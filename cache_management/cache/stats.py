"""Counts what the caches tell, so that `get_stats()` needs no metrics library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        # By type, not by match: every read passes here, and a match tries class after class.
        self._counters: dict[type[Any], Callable[[Any], None]] = {
            HitEvent: self._hit,
            MissEvent: self._miss,
            StoreEvent: self._store,
            RemoveEvent: self._remove,
            CorruptEvent: self._corrupt,
            UnavailableEvent: self._unavailable,
        }

    def __call__(self, event: Event) -> None:
        count = self._counters.get(event.__class__)
        if count is not None:
            count(event)

    def exact_hit(self, tokens: int) -> None:
        """Count what a HitEvent would tell: when nobody else listens, no event is made."""
        self.hits += 1
        self.tokens_saved += tokens

    def _hit(self, event: HitEvent) -> None:
        self.hits += 1
        self.tokens_saved += event.tokens
        if event.kind == "semantic":
            self.semantic_hits += 1

    def _miss(self, _: MissEvent) -> None:
        self.misses += 1

    def _store(self, _: StoreEvent) -> None:
        self.stores += 1

    def _remove(self, event: RemoveEvent) -> None:
        if not event.of_entries:
            return
        if event.reason == "delete":
            self.deletes += event.count
        elif event.reason == "evicted":
            self.evictions += event.count

    def _corrupt(self, _: CorruptEvent) -> None:
        self.corrupt_records += 1

    def _unavailable(self, _: UnavailableEvent) -> None:
        self.backend_failures += 1
