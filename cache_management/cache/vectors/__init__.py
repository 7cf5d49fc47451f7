"""Nearest-neighbour search over vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_management.cache.vectors.base import VectorIndex

if TYPE_CHECKING:
    from cache_management.cache.vectors.auto import AutoIndex

__all__ = ["VectorIndex", "open_index"]


def open_index() -> AutoIndex:
    """Return an empty index in this process: exact for small partitions, a graph for large ones."""
    from cache_management.cache.vectors.auto import AutoIndex

    return AutoIndex()
