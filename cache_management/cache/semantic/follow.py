"""Keeps the index of this process level with what any process stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.errors import CorruptRecord, JournalGap
from cache_management.cache.events import CorruptEvent, Listener
from cache_management.cache.semantic.stored_vectors import decode_vector
from cache_management.cache.vectors.base import VectorIndex

_PAGE = 200
_SLACK = 1_000
_EVERY_SECONDS = 0.05


class Follower:
    """Reads the journal before a search, at most every 50 ms; after a gap it reads everything again.

    A note is the storage key of a vector that was added, changed or removed.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        index: VectorIndex,
        *,
        stream: str,
        prefix: str,
        partition: str,
        dims: int,
        listener: Listener,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._journal = journal
        self._index = index
        self._stream = stream
        self._prefix = prefix
        self._partition = partition
        self._dims = dims
        self._listener = listener
        self._monotonic = monotonic
        self._cursor: str | None = None
        self._next_look = 0.0
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._size_after_full_read = 0

    async def catch_up(self) -> None:
        """Bring the index up to date.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A lock belongs to the loop that waited on it first.
            self._loop, self._lock = loop, asyncio.Lock()
        async with self._lock:
            if self._cursor is not None and self._monotonic() < self._next_look:
                return
            if self._cursor is None:
                await self._read_all()
            try:
                await self._read_new()
            except JournalGap:
                await self._read_all()
            # What expired sends no note and stays until it is a candidate: begin anew when it may be half of all.
            if await self._index.size(self._partition) > 2 * self._size_after_full_read + _SLACK:
                await self._read_all()
            self._next_look = self._monotonic() + _EVERY_SECONDS

    async def _read_all(self) -> None:
        # Until this is through the index is not to be trusted; a failure in the middle begins anew.
        self._cursor = None
        # The cursor is taken first: what is written meanwhile is read twice, never missed.
        cursor = await self._journal.tail(self._stream)
        await self._index.drop(self._partition)
        page: list[str] = []
        async for key in self._backend.scan(self._prefix):
            page.append(key)
            if len(page) == _PAGE:
                await self._load(page)
                page = []
        await self._load(page)
        self._cursor = cursor
        self._size_after_full_read = await self._index.size(self._partition)

    async def _read_new(self) -> None:
        while self._cursor is not None:
            notes, cursor = await self._journal.read_after(self._stream, self._cursor, limit=_PAGE)
            if notes:
                keys = dict.fromkeys(note.decode() for note in notes)
                await self._load([key for key in keys if key.startswith(self._prefix)])
            self._cursor = cursor
            if len(notes) < _PAGE:
                return

    async def _load(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        records = await self._backend.get_many(keys)
        ids = []
        rows = []
        for key, record in records.items():
            try:
                rows.append(decode_vector(record.value, dims=self._dims).as_array())
                ids.append(key)
            except CorruptRecord as exc:
                self._listener(CorruptEvent(self._backend.name, key, str(exc)))
        await self._index.remove(self._partition, [key for key in keys if key not in records])
        if ids:
            await self._index.add(self._partition, ids, np.stack(rows))
