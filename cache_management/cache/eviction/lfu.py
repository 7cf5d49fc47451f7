"""Least frequently used goes first, with ageing (LFUDA)."""

from __future__ import annotations

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.heap import KeyHeap
from cache_management.cache.records import Weight


class LfuEvictor(Evictor):
    """Orders keys by H = L + uses, where L is the H of the last victim.

    Without L, what was popular once would stay for ever (Arlitt et al., "Evaluating
    content management techniques for Web proxy caches", 1999). Ties go by last use.
    """

    def __init__(self) -> None:
        self._age = 0.0
        self._heap = KeyHeap()
        self._marks: dict[str, list[float]] = {}  # uses, worth of one use
        self._largest = 0.0
        self._rebase_at = 2.0**20

    def on_insert(self, key: str, weight: Weight) -> None:
        worth = self.worth(weight)
        self._largest = max(self._largest, worth)
        mark = self._marks.get(key)
        if mark is None:
            self._marks[key] = mark = [0, worth]
        mark[0] += 1
        mark[1] = worth
        self._heap.set(key, self._age + mark[0] * worth)

    def on_hit(self, key: str) -> None:
        mark = self._marks.get(key)
        if mark is not None:
            mark[0] += 1
            self._heap.set(key, self._age + mark[0] * mark[1])

    def on_remove(self, key: str) -> None:
        if self._marks.pop(key, None) is not None:
            self._heap.remove(key)

    def victim(self) -> str | None:
        lowest = self._heap.lowest()
        if lowest is None:
            return None
        self._age, key = lowest
        # L only grows. Before one use is too small to change a number of its size, everything is lowered.
        if self._age > self._rebase_at * self._largest:
            self._heap.rebuild(lower_by=self._age)
            self._age = 0.0
            self._largest = max(worth for _, worth in self._marks.values())
        return key

    def worth(self, weight: Weight) -> float:
        """Return what one use adds to H."""
        return 1.0
