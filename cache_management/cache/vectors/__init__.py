"""Nearest-neighbour search over vectors."""

from __future__ import annotations

from cache_management.cache.vectors.base import VectorIndex

__all__ = ["VectorIndex", "open_index"]


def open_index(url: str | None = None, *, dims: int = 0) -> VectorIndex:
    """Return an index: in this process, exact for few vectors and a graph for many; or at the url of a PostgreSQL."""
    if url is not None:
        from cache_management.cache.vectors.pgvector import PgVectorIndex

        return PgVectorIndex(url, dims=dims)
    from cache_management.cache.vectors.auto import AutoIndex

    return AutoIndex()
