"""Exact search: one matrix per partition, one product per query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.records import Neighbour
from cache_management.cache.vectors.base import VectorIndex

_FIRST_CAPACITY = 64


class FlatIndex(VectorIndex):
    """Compares a query with every vector of its partition: right by construction, fast to about 20,000."""

    def __init__(self) -> None:
        self._partitions: dict[str, _Matrix] = {}

    async def add(self, partition: str, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        if len(ids) == 0:
            return
        matrix = self._partitions.get(partition)
        if matrix is None:
            matrix = self._partitions[partition] = _Matrix(vectors.shape[1])
        for vector_id, vector in zip(ids, vectors, strict=True):
            matrix.put(vector_id, vector)

    async def remove(self, partition: str, ids: Sequence[str]) -> int:
        matrix = self._partitions.get(partition)
        return sum(matrix.pop(vector_id) for vector_id in ids) if matrix else 0

    async def search(self, partition: str, query: NDArray[np.float32], *, k: int) -> list[Neighbour]:
        matrix = self._partitions.get(partition)
        return matrix.nearest(query, k) if matrix and k > 0 else []

    async def size(self, partition: str | None = None) -> int:
        if partition is None:
            return sum(len(matrix.ids) for matrix in self._partitions.values())
        matrix = self._partitions.get(partition)
        return len(matrix.ids) if matrix else 0

    async def drop(self, partition: str | None = None) -> None:
        if partition is None:
            self._partitions.clear()
        else:
            self._partitions.pop(partition, None)

    async def aclose(self) -> None:
        self._partitions.clear()


class _Matrix:
    """Rows 0 to n-1 are in use; a removed row is filled with the last one."""

    def __init__(self, dims: int) -> None:
        self.ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._rows = np.empty((_FIRST_CAPACITY, dims), dtype=np.float32)

    def put(self, vector_id: str, vector: NDArray[np.float32]) -> None:
        if vector.shape != self._rows.shape[1:]:
            raise ValueError(f"vector has width {vector.shape}, the partition {self._rows.shape[1:]}")
        row = self._row_of.get(vector_id)
        if row is None:
            row = len(self.ids)
            if row == len(self._rows):
                grown = np.empty((row * 2, self._rows.shape[1]), dtype=np.float32)
                grown[:row] = self._rows
                self._rows = grown
            self.ids.append(vector_id)
            self._row_of[vector_id] = row
        self._rows[row] = vector

    def pop(self, vector_id: str) -> bool:
        row = self._row_of.pop(vector_id, None)
        if row is None:
            return False
        last_id = self.ids.pop()
        if last_id != vector_id:
            self.ids[row] = last_id
            self._row_of[last_id] = row
            self._rows[row] = self._rows[len(self.ids)]
        return True

    def nearest(self, query: NDArray[np.float32], k: int) -> list[Neighbour]:
        count = len(self.ids)
        similarities = self._rows[:count] @ query
        if k < count:
            best = np.argpartition(similarities, count - k)[count - k :]
            order = best[np.argsort(-similarities[best], kind="stable")]
        else:
            order = np.argsort(-similarities, kind="stable")
        return [Neighbour(self.ids[row], float(similarities[row])) for row in order]
