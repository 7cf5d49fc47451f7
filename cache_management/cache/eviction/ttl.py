"""Soonest to expire goes first; what never expires goes last; ties by last use."""

from __future__ import annotations

import math

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.heap import KeyHeap
from cache_management.cache.records import Weight


class TtlEvictor(Evictor):
    """Orders keys by their moment of expiry."""

    def __init__(self) -> None:
        self._heap = KeyHeap()

    def on_insert(self, key: str, weight: Weight) -> None:
        self._heap.set(key, math.inf if weight.expires_at is None else weight.expires_at)

    def on_hit(self, key: str) -> None:
        self._heap.touch(key)

    def on_remove(self, key: str) -> None:
        self._heap.remove(key)

    def victim(self) -> str | None:
        lowest = self._heap.lowest()
        return None if lowest is None else lowest[1]
