"""Soonest to expire goes first; what never expires goes last; ties by last write."""

from __future__ import annotations

import heapq
import itertools
import math

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Weight


class TtlEvictor(Evictor):
    """Orders keys by their moment of expiry."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._current: dict[str, tuple[float, int, str]] = {}
        self._ticks = itertools.count()

    def on_insert(self, key: str, weight: Weight) -> None:
        expires_at = math.inf if weight.expires_at is None else weight.expires_at
        item = (expires_at, next(self._ticks), key)
        self._current[key] = item
        heapq.heappush(self._heap, item)
        if len(self._heap) > 2 * len(self._current) + 16:
            self._heap = list(self._current.values())
            heapq.heapify(self._heap)

    def on_hit(self, key: str) -> None:
        """Reading does not change when a key expires."""

    def on_remove(self, key: str) -> None:
        self._current.pop(key, None)

    def victim(self) -> str | None:
        while self._heap:
            top = self._heap[0]
            if self._current.get(top[2]) is top:
                return top[2]
            heapq.heappop(self._heap)
        return None
