"""Least frequently used goes first, with ageing (LFUDA)."""

from __future__ import annotations

import heapq
import itertools

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Weight


class LfuEvictor(Evictor):
    """Orders keys by H = L + uses, where L is the H of the last victim.

    Without L, what was popular once would stay for ever (Arlitt et al., "Evaluating
    content management techniques for Web proxy caches", 1999). Ties go by last use.
    """

    def __init__(self) -> None:
        self._age = 0.0
        self._uses: dict[str, int] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._current: dict[str, tuple[float, int, str]] = {}
        self._ticks = itertools.count()

    def on_insert(self, key: str, weight: Weight) -> None:
        self._uses[key] = self._uses.get(key, 0) + 1
        self._push(key)

    def on_hit(self, key: str) -> None:
        if key in self._uses:
            self._uses[key] += 1
            self._push(key)

    def on_remove(self, key: str) -> None:
        self._uses.pop(key, None)
        self._current.pop(key, None)

    def victim(self) -> str | None:
        while self._heap:
            top = self._heap[0]
            if self._current.get(top[2]) is top:
                self._age = top[0]
                return top[2]
            heapq.heappop(self._heap)
        return None

    def _push(self, key: str) -> None:
        item = (self._age + self._uses[key], next(self._ticks), key)
        self._current[key] = item
        heapq.heappush(self._heap, item)
        # Each hit leaves a dead item behind; rebuilding at twice the live set keeps memory bounded.
        if len(self._heap) > 2 * len(self._current) + 16:
            self._heap = list(self._current.values())
            heapq.heapify(self._heap)
