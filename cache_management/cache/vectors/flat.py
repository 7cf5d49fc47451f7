"""Exact search: one matrix per partition, one product per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.records import Neighbour
from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.checks import checked_query, checked_rows
from cache_management.cache.vectors.matrix import Matrix


class FlatIndex(VectorIndex):
    """Compares a query with every vector of its partition: right by construction, fast to about 20,000."""

    def __init__(self) -> None:
        self._partitions: dict[str, Matrix] = {}

    async def add(self, partition: str, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        matrix = self._partitions.get(partition)
        rows = checked_rows(ids, vectors, matrix.dims if matrix else None)
        if not len(rows):
            return
        if matrix is None:
            matrix = self._partitions[partition] = Matrix(rows.shape[1])
        matrix.put(ids, rows)

    async def remove(self, partition: str, ids: Sequence[str]) -> int:
        matrix = self._partitions.get(partition)
        if matrix is None:
            return 0
        removed = sum(matrix.pop(name) for name in ids)
        if not len(matrix):
            del self._partitions[partition]
        return removed

    async def search(self, partition: str, query: NDArray[np.float32], *, k: int) -> list[Neighbour]:
        matrix = self._partitions.get(partition)
        row = checked_query(query, matrix.dims if matrix else None)
        return matrix.nearest(row, k) if matrix else []

    async def absent(self, places: Mapping[str, str]) -> set[str]:
        return {name for name, partition in places.items() if name not in self._partitions.get(partition, ())}

    async def size(self, partition: str | None = None) -> int:
        if partition is None:
            return sum(map(len, self._partitions.values()))
        matrix = self._partitions.get(partition)
        return len(matrix) if matrix else 0

    async def drop(self, partition: str | None = None) -> None:
        if partition is None:
            self._partitions.clear()
        else:
            self._partitions.pop(partition, None)

    async def aclose(self) -> None:
        self._partitions.clear()
