"""The vectors of one partition as rows of one matrix: exact, and small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.records import Neighbour

_DOUBLE_BELOW = 4096


class Matrix:
    """Rows 0 to n-1 are in use; a removed row is filled with the last one.

    The room follows what is held, because most partitions hold one vector or two.
    """

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._rows = np.empty((0, dims), dtype=np.float32)

    @classmethod
    def of(cls, ids: list[str], rows: NDArray[np.float32]) -> Matrix:
        """Take over ids that differ from each other, and their rows."""
        matrix = cls(rows.shape[1])
        matrix.ids = ids
        matrix._row_of = {name: row for row, name in enumerate(ids)}
        matrix._rows = rows
        return matrix

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    @property
    def rows(self) -> NDArray[np.float32]:
        """A view, shape (n, d), in the order of `ids`; the next change spoils it."""
        return self._rows[: len(self.ids)]

    def put(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add or replace rows."""
        first = len(self.ids)
        at = []
        for name in ids:
            row = self._row_of.get(name)
            if row is None:
                row = self._row_of[name] = len(self.ids)
                self.ids.append(name)
            at.append(row)
        if len(self.ids) > len(self._rows):
            self._resize(_room(len(self.ids)))
        if len(self.ids) - first == len(ids):
            self._rows[first : len(self.ids)] = vectors
        else:
            for row, vector in zip(at, vectors, strict=True):  # an id may stand in it twice: the last one counts
                self._rows[row] = vector

    def pop(self, name: str) -> bool:
        """Remove a row; tell whether there was one."""
        row = self._row_of.pop(name, None)
        if row is None:
            return False
        last = self.ids.pop()
        if last != name:
            self.ids[row] = last
            self._row_of[last] = row
            self._rows[row] = self._rows[len(self.ids)]
        if len(self.ids) < len(self._rows) // 4:
            self._resize(_room(len(self.ids)))
        return True

    def tail(self, count: int) -> tuple[list[str], NDArray[np.float32]]:
        """Return copies of the last rows: these are the ones that leave without moving others."""
        first = max(0, len(self.ids) - count)
        return self.ids[first:], self.rows[first:].copy()

    def nearest(self, query: NDArray[np.float32], k: int) -> list[Neighbour]:
        """Return up to `k` neighbours, best first."""
        count = len(self.ids)
        if count == 0 or k <= 0:
            return []
        similarities = self.rows @ query
        if k < count:
            best = np.argpartition(similarities, count - k)[count - k :]
            order = best[np.argsort(-similarities[best], kind="stable")]
        else:
            order = np.argsort(-similarities, kind="stable")
        return [Neighbour(self.ids[row], float(similarities[row])) for row in order]

    def _resize(self, room: int) -> None:
        resized = np.empty((room, self.dims), dtype=np.float32)
        kept = min(room, len(self._rows), len(self.ids))
        resized[:kept] = self._rows[:kept]
        self._rows = resized


def _room(count: int) -> int:
    """Return how many rows to make room for: doubling while that is cheap, then half as much again."""
    if count <= _DOUBLE_BELOW:
        return 1 << max(0, count - 1).bit_length()
    return count + count // 2
