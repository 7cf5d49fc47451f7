"""Approximate search in a graph of near neighbours (HNSW), by usearch.

usearch lets go of the interpreter while it works and gives each *call*, not each thread, its own
scratch memory: a search beside an insertion, or beside another search, would share it. So a lock
keeps calls apart, and insertions come in slices small enough to wait for.

Source: Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs", 2016.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# ONNX Runtime dies of a segmentation fault when it is loaded after usearch (1.32 after 2.26 with numkong 7.8);
# the other way round both work. So it is loaded first, where it is installed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
with suppress(ImportError):
    import onnxruntime  # noqa: F401

try:
    import usearch
    from usearch.index import Index
except ImportError as exc:
    raise ImportError("Large partitions need: pip install 'cache-management[semantic]'") from exc

from cache_management.cache.records import Neighbour

# Half of 32 bits as it is: processors compare it faster than IEEE half precision. Scores are taken from whole vectors.
_DTYPE = "bf16"
LIBRARY = f"usearch {usearch.__version__} {_DTYPE}"
"""What wrote a graph; another one's is not read."""

_CONNECTIVITY = 32
_EXPANSION_ADD = 200
_SLACK = 4  # asked for beyond k, because a few slots may be dead


class Graph:
    """Vectors under slots 0 to n-1, in 16 bits each; a slot is never used again.

    A slot answers once `adopt` has given it an id, until `forget`. The graph itself only grows:
    whoever owns it makes a new one when too many slots are dead.
    """

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.ids: list[str | None] = []
        self._slot_of: dict[str, int] = {}
        self._index = Index(
            ndim=dims, metric="ip", dtype=_DTYPE, connectivity=_CONNECTIVITY, expansion_add=_EXPANSION_ADD
        )
        self._searching = threading.Lock()  # calls that use the scratch memory
        self._changing = threading.Lock()  # insertions, and copies of the whole; taken before the other

    def __len__(self) -> int:
        """Return how many vectors answer."""
        return len(self._slot_of)

    def __contains__(self, name: str) -> bool:
        return name in self._slot_of

    @property
    def dead(self) -> int:
        """How many slots answer no more, or not yet."""
        return len(self.ids) - len(self._slot_of)

    def reserve(self, count: int) -> int:
        """Set slots aside; return the first."""
        first = len(self.ids)
        self.ids += [None] * count
        return first

    def insert(self, first: int, rows: NDArray[np.float32]) -> None:
        """Put vectors under reserved slots. For a thread: takes about half a millisecond a row."""
        slots = np.arange(first, first + len(rows), dtype=np.uint64)
        with self._changing, self._searching:
            # One thread: rows that go in at once do not link to each other, and a million then miss twice as many.
            self._index.add(slots, rows, threads=1)

    def adopt(self, slot: int, name: str) -> None:
        """Let a slot answer under a name that has none."""
        self.ids[slot] = name
        self._slot_of[name] = slot

    def forget(self, name: str) -> bool:
        """Let a slot answer no more; tell whether there was one."""
        slot = self._slot_of.pop(name, None)
        if slot is None:
            return False
        self.ids[slot] = None
        return True

    def rows(self, slots: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of slots, shape (n, d), as they are kept: in 16 bits each."""
        with self._changing, self._searching:
            found = self._index.get(np.array(slots, dtype=np.uint64))
        return np.asarray(found, dtype=np.float32).reshape(len(slots), self.dims)

    def nearest(self, query: NDArray[np.float32], k: int) -> list[Neighbour]:
        """Return up to `k` neighbours, best first."""
        if not self._slot_of or k <= 0:
            return []
        wanted = k + min(self.dead, _SLACK)
        while True:
            with self._searching:
                self._index.expansion_search = max(_expansion(len(self.ids)), wanted)  # type: ignore[misc]
                found = self._index.search(query, wanted, threads=1)
            names = [self.ids[slot] for slot in found.keys.tolist()]
            live = [
                Neighbour(name, 1.0 - distance)
                for name, distance in zip(names, found.distances.tolist(), strict=True)
                if name is not None
            ]
            if len(live) >= min(k, len(self._slot_of)) or wanted >= len(self.ids):
                return live[:k]
            wanted *= 2  # dead slots stood in front

    def dump(self, path: Path) -> None:
        """Write vectors and links to a file. For a thread; searches go on meanwhile."""
        with self._changing:
            self._index.save(path)

    @classmethod
    def restore(cls, ids: list[str | None], data: memoryview, *, dims: int) -> Graph:
        """Read what `dump` wrote. The bytes must be checked: usearch trusts them.

        Raises:
            ValueError: They are not the graph of these ids.
        """
        graph = cls(dims)
        try:
            graph._index.load(data)
        except (RuntimeError, ValueError) as exc:
            raise ValueError(f"usearch cannot read it: {exc}") from exc
        held = len(graph._index)
        if graph._index.ndim != dims or held < len(ids):
            raise ValueError(f"{held} vectors of width {graph._index.ndim} for {len(ids)} ids of width {dims}")
        # A slice may have been inserted after the ids were copied: nobody answers for it.
        graph.ids = ids + [None] * (held - len(ids))
        graph._slot_of = {name: slot for slot, name in enumerate(ids) if name is not None}
        return graph


def _expansion(count: int) -> int:
    """Return how many candidates a search keeps: what held recall@1 above 0.99, see docs/design/0010."""
    return 64 if count <= 200_000 else 208
