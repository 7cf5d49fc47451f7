"""What goes first when a bounded store is full."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cache_management.cache.records import Weight


class Evictor(ABC):
    """Keeps an order over keys; knows nothing of values. Chosen by `EvictionPolicy`.

    The store tells it about every insert, hit and removal, and removes what `victim` names.
    """

    @abstractmethod
    def on_insert(self, key: str, weight: Weight) -> None:
        """Learn of a new or overwritten key."""

    @abstractmethod
    def on_hit(self, key: str) -> None:
        """Learn that a key was read; unknown keys are ignored."""

    @abstractmethod
    def on_remove(self, key: str) -> None:
        """Forget a key, whatever removed it; unknown keys are ignored."""

    @abstractmethod
    def victim(self) -> str | None:
        """Return the key that should go next, or None when there is none."""
