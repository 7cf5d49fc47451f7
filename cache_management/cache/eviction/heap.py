"""A heap over keys whose rank is changed often and looked at seldom."""

from __future__ import annotations

import heapq
import itertools

_Item = tuple[float, int, str]  # rank, tick, key


class KeyHeap:
    """Finds the key of lowest rank; among equals the one that was set longest ago.

    Raising a rank, which is what a hit does, only notes the new one: the heap learns of it when
    the key comes to the top. So hits cost no heap operation and leave no dead items behind.
    """

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._queued: dict[str, _Item] = {}  # the item of a key in the heap, never above its place in `_wanted`
        self._wanted: dict[str, _Item] = {}
        self._ticks = itertools.count()

    def set(self, key: str, rank: float) -> None:
        """Give a key its rank, and make it the youngest of its equals."""
        item = (rank, next(self._ticks), key)
        self._wanted[key] = item
        queued = self._queued.get(key)
        if queued is None or rank < queued[0]:
            self._queued[key] = item
            heapq.heappush(self._items, item)
            # Lowering and removing leave dead items; rebuilding at twice the live set keeps memory bounded.
            if len(self._items) > 2 * len(self._wanted) + 16:
                self.rebuild()

    def touch(self, key: str) -> None:
        """Make a key the youngest of its equals; unknown keys are ignored."""
        wanted = self._wanted.get(key)
        if wanted is not None:
            self._wanted[key] = (wanted[0], next(self._ticks), key)

    def remove(self, key: str) -> None:
        """Forget a key; unknown keys are ignored."""
        if self._wanted.pop(key, None) is not None:
            del self._queued[key]

    def lowest(self) -> tuple[float, str] | None:
        """Return the lowest rank and its key, or None when there is no key."""
        items = self._items
        while items:
            top = items[0]
            rank, _, key = top
            if self._queued.get(key) is not top:
                heapq.heappop(items)
                continue
            wanted = self._wanted[key]
            if wanted is top:
                return rank, key
            self._queued[key] = wanted
            heapq.heapreplace(items, wanted)
        return None

    def rebuild(self, *, lower_by: float = 0.0) -> None:
        """Drop dead items; subtract a number from every rank."""
        if lower_by:
            self._wanted = {key: (rank - lower_by, tick, key) for key, (rank, tick, _) in self._wanted.items()}
        self._queued = dict(self._wanted)
        self._items = list(self._wanted.values())
        heapq.heapify(self._items)
