"""One partition of an AutoIndex: rows not in the graph yet, and the graph, once there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.records import Neighbour
from cache_management.cache.vectors.matrix import Matrix

if TYPE_CHECKING:
    import asyncio

    from cache_management.cache.vectors.graph import Graph


class Partition:
    """What is added goes into the matrix and answers at once; slices move on to the graph later.

    An id stands in the matrix or in the graph, never in both.
    """

    def __init__(self, matrix: Matrix, graph: Graph | None = None) -> None:
        self.matrix = matrix
        self.graph = graph
        # Names added or removed while vectors are on their way: what is on its way is out of date for them.
        self.touched: set[str] | None = None
        self.slice_ends: asyncio.Event | None = None  # while a slice is on its way
        self.waited = False  # a search waited for the last slice

    @property
    def dims(self) -> int:
        return self.matrix.dims

    def __len__(self) -> int:
        return len(self.matrix) + (len(self.graph) if self.graph is not None else 0)

    def __contains__(self, name: str) -> bool:
        return name in self.matrix or (self.graph is not None and name in self.graph)

    def put(self, ids: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Add or replace vectors."""
        if self.touched is not None:
            self.touched.update(ids)
        if self.graph is not None:
            for name in ids:
                self.graph.forget(name)
        self.matrix.put(ids, rows)

    def pop(self, name: str) -> bool:
        """Remove a vector; tell whether there was one."""
        if self.touched is not None:
            self.touched.add(name)
        return self.matrix.pop(name) or (self.graph is not None and self.graph.forget(name))

    def nearest(self, query: NDArray[np.float32], k: int) -> list[Neighbour]:
        """Return up to `k` neighbours of both, best first."""
        found = self.matrix.nearest(query, k)
        if self.graph is None:
            return found
        graphed = self.graph.nearest(query, k)
        if not found:
            return graphed
        return sorted(found + graphed, key=lambda each: -each.similarity)[:k]
