from __future__ import annotations

from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.flat import FlatIndex
from tests.contracts.vector_index import VectorIndexContract


class TestFlatIndex(VectorIndexContract):
    tolerance = 1e-6

    async def make(self) -> VectorIndex:
        return FlatIndex()
