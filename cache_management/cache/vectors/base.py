"""Nearest neighbours among unit vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from cache_management.cache.records import Neighbour

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class VectorIndex(ABC):
    """Finds the vectors closest to a query, inside one partition; a search cannot leave it.

    There may be many thousands of partitions; one that holds nothing costs nothing. All vectors
    of a partition have one width.

    Implementations inherit tests/contracts/vector_index.py.
    """

    is_shared: ClassVar[bool] = False
    """Whether what one process adds is found by all."""

    @abstractmethod
    async def add(self, partition: str, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add or replace vectors, shape (n, d), rows of length 1; of an id given twice the last one counts.

        Raises:
            InvalidInput: A row is not finite, not of length 1 (to 0.001), or of another width than
                the partition's, or ids and rows do not pair up. Nothing was changed.
        """

    @abstractmethod
    async def remove(self, partition: str, ids: Sequence[str]) -> int:
        """Remove vectors; return how many were there."""

    @abstractmethod
    async def search(self, partition: str, query: NDArray[np.float32], *, k: int) -> list[Neighbour]:
        """Return up to `k` neighbours of a query of shape (d,), length 1, best first.

        Similarities are right to 0.001. Above some size an index may be approximate: it finds the
        closest vectors nearly always.

        Raises:
            InvalidInput: The query is not finite, not of length 1, or of another width.
        """

    @abstractmethod
    async def absent(self, places: Mapping[str, str]) -> set[str]:
        """Return those ids that are not in the partition given for each."""

    @abstractmethod
    async def size(self, partition: str | None = None) -> int:
        """Return how many vectors a partition holds, or all of them."""

    @abstractmethod
    async def drop(self, partition: str | None = None) -> None:
        """Forget a partition, or everything."""

    @abstractmethod
    async def aclose(self) -> None:
        """Free what the index holds."""
