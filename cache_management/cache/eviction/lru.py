"""Least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Weight


class LruEvictor(Evictor):
    """Orders keys by their last use; every operation is O(1)."""

    def __init__(self) -> None:
        self._order: OrderedDict[str, None] = OrderedDict()

    def on_insert(self, key: str, weight: Weight) -> None:
        self._order[key] = None
        self._order.move_to_end(key)

    def on_hit(self, key: str) -> None:
        if key in self._order:
            self._order.move_to_end(key)

    def on_remove(self, key: str) -> None:
        self._order.pop(key, None)

    def victim(self) -> str | None:
        return next(iter(self._order), None)

    def __contains__(self, key: str) -> bool:
        return key in self._order
