"""The index of this process: small partitions exact, large ones in a graph."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.records import Neighbour
from cache_management.cache.vectors import snapshot
from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.checks import checked_query, checked_rows
from cache_management.cache.vectors.matrix import Matrix
from cache_management.cache.vectors.partition import Partition

if TYPE_CHECKING:
    from cache_management.cache.vectors.graph import Graph

logger = logging.getLogger("cache_management")

_SMALLEST_SLICE = 8  # a search that comes meanwhile waits some milliseconds
_LARGEST_SLICE = 128


class AutoIndex(VectorIndex):
    """Flat up to `switch_size` vectors of a partition, a graph above; each partition for itself.

    Rows move into the graph in slices, on a thread, while the flat part goes on answering for
    those that wait. A graph is made anew when a quarter of its slots is dead, and given up when
    the partition has shrunk to half of `switch_size`.

    Without usearch every partition stays flat, and one line in the log says so.

    Args:
        switch_size: Vectors of a partition above which it gets a graph.
        flat_rest: Rows beside a graph that are not worth moving.
        run: Runs a function beside the event loop; tests put their own here.
    """

    def __init__(
        self,
        *,
        switch_size: int = 20_000,
        flat_rest: int = 256,
        run: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._switch_size = switch_size
        self._flat_rest = flat_rest
        self._run = run
        self._partitions: dict[str, Partition] = {}
        self._due: dict[str, Partition] = {}  # wait to be moved, in turn
        self._mover: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stays_flat = False

    async def add(self, partition: str, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        held = self._partitions.get(partition)
        rows = checked_rows(ids, vectors, held.dims if held else None)
        if not len(rows):
            return
        if held is None:
            held = self._partitions[partition] = Partition(Matrix(rows.shape[1]))
        held.put(ids, rows)
        self._look_after(partition, held)

    async def remove(self, partition: str, ids: Sequence[str]) -> int:
        held = self._partitions.get(partition)
        if held is None:
            return 0
        removed = sum(held.pop(name) for name in ids)
        if not len(held):
            del self._partitions[partition]
        else:
            self._look_after(partition, held)
        return removed

    async def search(self, partition: str, query: NDArray[np.float32], *, k: int) -> list[Neighbour]:
        held = self._partitions.get(partition)
        row = checked_query(query, held.dims if held else None)
        if held is None:
            return []
        if held.slice_ends is not None and self._loop is asyncio.get_running_loop():
            # Waiting here keeps the loop free. Another loop waits for the lock in the graph.
            held.waited = True
            await held.slice_ends.wait()
            if self._partitions.get(partition) is not held:  # dropped meanwhile, and perhaps filled again
                return await self.search(partition, query, k=k)
        return held.nearest(row, k)

    async def absent(self, places: Mapping[str, str]) -> set[str]:
        return {name for name, partition in places.items() if name not in self._partitions.get(partition, ())}

    async def size(self, partition: str | None = None) -> int:
        if partition is None:
            return sum(map(len, self._partitions.values()))
        held = self._partitions.get(partition)
        return len(held) if held else 0

    async def drop(self, partition: str | None = None) -> None:
        if partition is None:
            self._partitions.clear()
            self._due.clear()
        else:
            self._partitions.pop(partition, None)
            self._due.pop(partition, None)

    def members(self) -> Iterator[tuple[str, list[str]]]:
        """Return the partitions and the ids in them."""
        for name, held in self._partitions.items():
            graphed = [] if held.graph is None else [each for each in held.graph.ids if each is not None]
            yield name, held.matrix.ids + graphed

    async def settled(self) -> None:
        """Wait until nothing is left to move; for tests and measurements."""
        while self._mover is not None and not self._mover.done():
            await asyncio.wait([self._mover])

    async def save(self, path: Path, *, position: str, space: str) -> None:
        """Write a snapshot, in the place of an older one; adds and searches go on meanwhile.

        Every change up to `position` must be in the index already. Later ones may or may not be in
        the snapshot: whoever loads it reads the journal from `position` on, and reading a change
        twice does no harm.

        Raises:
            BackendRefused: The file cannot be written; an older one stays as it was.
        """
        await snapshot.write(path, self._partitions, position=position, space=space, run=self._run)

    async def load(self, path: Path, *, space: str) -> snapshot.Restored | snapshot.NotRestored:
        """Take over a snapshot of this space, in the place of what is held; or say why not, and change nothing."""
        found: tuple[dict[str, Partition], snapshot.Restored] | snapshot.NotRestored = await self._run(
            snapshot.read, path, space=space
        )
        if isinstance(found, snapshot.NotRestored):
            return found
        partitions, restored = found
        await self._stop_mover()
        self._partitions = partitions
        for name, held in partitions.items():
            self._look_after(name, held)
        return restored

    async def aclose(self) -> None:
        await self._stop_mover()
        self._partitions = {}

    async def _stop_mover(self) -> None:
        mover, self._mover = self._mover, None
        self._due.clear()
        if mover is not None and self._loop is asyncio.get_running_loop():
            mover.cancel()
            with suppress(asyncio.CancelledError):
                await mover

    def _look_after(self, name: str, held: Partition) -> None:
        """Begin to move what should be moved, unless that goes on already."""
        if self._stays_flat or self._due.get(name) is held or not self._has_work(held):
            return
        self._due[name] = held
        loop = asyncio.get_running_loop()
        if self._mover is not None and not self._mover.done() and not (self._loop and self._loop.is_closed()):
            return
        self._loop = loop
        self._mover = loop.create_task(self._move_all())

    def _has_work(self, held: Partition) -> bool:
        if held.graph is None:
            return len(held.matrix) > self._switch_size
        return len(held.matrix) > self._flat_rest or self._is_worn(held.graph)

    def _is_worn(self, graph: Graph) -> bool:
        return 4 * graph.dead > len(graph.ids) and graph.dead > self._flat_rest

    async def _move_all(self) -> None:
        try:
            make_graph: type[Graph] = await self._run(_load_graph)
            while self._due:
                name = next(iter(self._due))
                held = self._due.pop(name)
                while self._partitions.get(name) is held and self._has_work(held):
                    if held.graph is not None and self._is_worn(held.graph):
                        await self._renew(name, held, held.graph, make_graph)
                    else:
                        await self._move(name, held, make_graph)
        except ImportError as exc:
            self._stays_flat = True
            logger.warning("partitions above %d vectors stay flat, and slow: %s", self._switch_size, exc)
        except (RuntimeError, ValueError, MemoryError) as exc:
            # Whatever usearch says: the flat part holds what is not in the graph, so answers stay right.
            self._stays_flat = True
            logger.warning("vectors stay out of the graph from now on: usearch says %s", exc)

    async def _move(self, partition: str, held: Partition, make_graph: type[Graph]) -> None:
        """Move rows of the matrix into the graph until few are left."""
        if held.graph is None:
            held.graph = make_graph(held.dims)
        graph = held.graph
        size = _SMALLEST_SLICE
        while len(held.matrix) and self._partitions.get(partition) is held and not self._is_worn(graph):
            names, rows = held.matrix.tail(size)
            first = graph.reserve(len(names))
            touched = held.touched = set()
            held.slice_ends, held.waited = asyncio.Event(), False
            try:
                await self._run(graph.insert, first, rows)
            finally:
                held.touched = None
                held.slice_ends.set()
                held.slice_ends = None
            for slot, moved in enumerate(names, first):
                if moved not in touched:
                    held.matrix.pop(moved)
                    graph.adopt(slot, moved)
            await asyncio.sleep(0)  # whoever waited is served before the next slice begins
            size = _SMALLEST_SLICE if held.waited else min(2 * size, _LARGEST_SLICE)

    async def _renew(self, partition: str, held: Partition, worn: Graph, make_graph: type[Graph]) -> None:
        """Make a graph anew of what answers in it, or go back to the matrix when that is little."""
        touched = held.touched = set()
        try:
            if 2 * len(held) <= self._switch_size:
                names, slots = _live(worn, 0, len(worn.ids))
                rows = await self._run(worn.rows, slots)
                kept = [at for at, name in enumerate(names) if name not in touched]
                held.graph = None
                held.matrix.put([names[at] for at in kept], rows[kept])
                return
            fresh = make_graph(held.dims)
            for start in range(0, len(worn.ids), _LARGEST_SLICE):
                names, slots = _live(worn, start, start + _LARGEST_SLICE)
                if slots:
                    first = fresh.reserve(len(slots))
                    await self._run(_copy, worn, slots, fresh, first)
                    for slot, name in enumerate(names, first):
                        fresh.adopt(slot, name)
                if self._partitions.get(partition) is not held:
                    return
            for name in touched:
                fresh.forget(name)
            held.graph = fresh
        finally:
            held.touched = None


def _load_graph() -> type[Graph]:
    from cache_management.cache.vectors.graph import Graph

    return Graph


def _live(graph: Graph, start: int, end: int) -> tuple[list[str], list[int]]:
    """Return the names that answer in a stretch of slots, and their slots."""
    found = [(name, slot) for slot, name in enumerate(graph.ids[start:end], start) if name is not None]
    return [name for name, _ in found], [slot for _, slot in found]


def _copy(source: Graph, slots: Sequence[int], target: Graph, first: int) -> None:
    target.insert(first, source.rows(slots))
