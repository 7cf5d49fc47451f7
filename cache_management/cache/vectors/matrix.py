"""The vectors of one partition as rows, compared one and all: exact, and small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.records import Neighbour

_BLOCK_ROWS = 8_192


class Matrix:
    """Rows 0 to n-1 are in use; a removed row is filled with the last one.

    The rows lie in blocks. The first begins with room for one, because most partitions hold one
    vector or two; later ones are full-sized, so that growth never copies what is large.
    """

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._blocks: list[NDArray[np.float32]] = []

    @classmethod
    def of(cls, ids: list[str], rows: NDArray[np.float32]) -> Matrix:
        """Take over ids that differ from each other, and their rows."""
        matrix = cls(rows.shape[1])
        matrix.ids = ids
        matrix._row_of = {name: row for row, name in enumerate(ids)}
        whole = len(rows) - len(rows) % _BLOCK_ROWS
        matrix._blocks = [rows[at : at + _BLOCK_ROWS] for at in range(0, whole, _BLOCK_ROWS)]
        if whole < len(rows):
            rest = np.empty((_room(len(rows) - whole) if whole == 0 else _BLOCK_ROWS, matrix.dims), dtype=np.float32)
            rest[: len(rows) - whole] = rows[whole:]
            matrix._blocks.append(rest)
        return matrix

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows, room included."""
        return sum(block.nbytes for block in self._blocks)

    def rows(self, first: int = 0) -> NDArray[np.float32]:
        """Return a copy of the rows from `first` on, shape (n, d), in the order of `ids`."""
        parts = [used[max(0, first - start) :] for start, used in self._used() if start + len(used) > first]
        return np.concatenate(parts) if parts else np.empty((0, self.dims), dtype=np.float32)

    def put(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add or replace rows; of an id given twice the last one counts."""
        known = len(self.ids)
        at = []
        for name in ids:
            row = self._row_of.get(name)
            if row is None:
                row = self._row_of[name] = len(self.ids)
                self.ids.append(name)
            at.append(row)
        self._make_room()
        if len(self.ids) - known < len(ids):
            for row, vector in zip(at, vectors, strict=True):
                self._blocks[row // _BLOCK_ROWS][row % _BLOCK_ROWS] = vector
            return
        done = 0
        while done < len(ids):
            block, start = divmod(known + done, _BLOCK_ROWS)
            some = min(len(ids) - done, _BLOCK_ROWS - start)
            self._blocks[block][start : start + some] = vectors[done : done + some]
            done += some

    def pop(self, name: str) -> bool:
        """Remove a row; tell whether there was one."""
        row = self._row_of.pop(name, None)
        if row is None:
            return False
        last = self.ids.pop()
        if last != name:
            self.ids[row] = last
            self._row_of[last] = row
            block, place = divmod(len(self.ids), _BLOCK_ROWS)
            self._blocks[row // _BLOCK_ROWS][row % _BLOCK_ROWS] = self._blocks[block][place]
        self._give_back()
        return True

    def tail(self, count: int) -> tuple[list[str], NDArray[np.float32]]:
        """Return copies of the last rows: these are the ones that leave without moving others."""
        first = max(0, len(self.ids) - count)
        return self.ids[first:], self.rows(first)

    def nearest(self, query: NDArray[np.float32], k: int) -> list[Neighbour]:
        """Return up to `k` neighbours, best first."""
        count = len(self.ids)
        if count == 0 or k <= 0:
            return []
        parts = [used @ query for _, used in self._used()]
        similarities = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if k < count:
            best = np.argpartition(similarities, count - k)[count - k :]
            order = best[np.argsort(-similarities[best], kind="stable")]
        else:
            order = np.argsort(-similarities, kind="stable")
        return [Neighbour(self.ids[row], float(similarities[row])) for row in order]

    def _used(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Return the number of each block's first row, and the rows of it that are in use."""
        count = len(self.ids)
        return [
            (start, block[: count - start])
            for start, block in zip(range(0, count, _BLOCK_ROWS), self._blocks, strict=False)
        ]

    def _make_room(self) -> None:
        needed = len(self.ids)
        if needed and (not self._blocks or len(self._blocks[0]) < min(needed, _BLOCK_ROWS)):
            self._resize_first(_room(min(needed, _BLOCK_ROWS)))
        while len(self._blocks) * _BLOCK_ROWS < needed:
            self._blocks.append(np.empty((_BLOCK_ROWS, self.dims), dtype=np.float32))

    def _give_back(self) -> None:
        """Free the last block when half of the one before is empty too; shrink the first when a quarter is used."""
        if len(self._blocks) > 1:
            if len(self.ids) <= (len(self._blocks) - 1) * _BLOCK_ROWS - _BLOCK_ROWS // 2:
                self._blocks.pop()
        elif self._blocks and len(self.ids) < len(self._blocks[0]) // 4:
            self._resize_first(_room(len(self.ids)))

    def _resize_first(self, room: int) -> None:
        resized = np.empty((room, self.dims), dtype=np.float32)
        if self._blocks:
            kept = min(room, len(self._blocks[0]))
            resized[:kept] = self._blocks[0][:kept]
        self._blocks[:1] = [resized]


def _room(count: int) -> int:
    """Return the smallest power of two that holds so many rows."""
    return 1 << max(0, count - 1).bit_length()
