from __future__ import annotations

from cache_management.cache.vectors import open_index
from cache_management.cache.vectors.base import VectorIndex
from tests.contracts.vector_index import VectorIndexContract


class TestFlatIndex(VectorIndexContract):
    async def make(self) -> VectorIndex:
        return open_index()
