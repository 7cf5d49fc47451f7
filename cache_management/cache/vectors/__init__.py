"""Nearest-neighbour search over vectors."""

from __future__ import annotations

from cache_management.cache.vectors.base import VectorIndex


def open_index() -> VectorIndex:
    """Return an empty index in this process."""
    from cache_management.cache.vectors.flat import FlatIndex

    return FlatIndex()
