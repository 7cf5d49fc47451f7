"""Keeps the index of this process level with what any process stored."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.errors import BackendUnavailable, CorruptRecord, JournalGap
from cache_management.cache.events import CorruptEvent, Listener
from cache_management.cache.semantic.snapshots import Snapshot
from cache_management.cache.semantic.stored_vectors import decode_vector
from cache_management.cache.vectors.base import VectorIndex

_PAGE = 200
_SLACK = 1_000
_EVERY_SECONDS = 0.05
_WORTH_SAVING = 1_000  # changes; fewer are read faster than a file
_SAVED_MEANWHILE = 50_000
logger = logging.getLogger("cache_management")


class Follower:
    """Reads the journal before a search, at most every 50 ms; after a gap it reads everything again.

    A note is the storage key of a vector that was added, changed or removed. Each scope is a
    partition of the index, so that a search cannot leave it. `on_others` is called, once, when a full read
    finds no vector although the namespace holds some of another model.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        index: VectorIndex,
        *,
        stream: str,
        prefix: str,
        dims: int,
        listener: Listener,
        snapshot: Snapshot | None = None,
        on_others: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._journal = journal
        self._index = index
        self._stream = stream
        self._prefix = prefix
        self._dims = dims
        self._listener = listener
        self._snapshot = snapshot
        self._on_others = on_others
        self._changes = 0  # since the last snapshot
        self._generation = 0
        self._saving: asyncio.Task[None] | None = None
        self._monotonic = monotonic
        self._cursor: str | None = None
        self._next_look = 0.0
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._size_after_full_read = 0
        self._scopes: dict[str, str] = {}  # of vectors that are not in scope ""

    def partition(self, scope: str) -> str:
        """Return the name of the partition that holds a scope."""
        return f"{self._prefix}{scope}"

    def scopes(self) -> list[str]:
        """Return the scopes that may hold something."""
        return ["", *sorted(set(self._scopes.values()))]

    async def put(self, rows: Mapping[str, NDArray[np.float32]], scopes: Mapping[str, str]) -> None:
        """Add or replace vectors by storage key; shapes (d,)."""
        await self.remove([key for key in rows if self._scopes.get(key, "") != scopes[key]])
        for scope in set(scopes.values()):
            keys = [key for key in rows if scopes[key] == scope]
            await self._index.add(self.partition(scope), keys, np.stack([rows[key] for key in keys]))
            if scope:
                # One text for all vectors of a scope, not one for each.
                self._scopes.update(dict.fromkeys(keys, sys.intern(scope)))

    async def remove(self, keys: Sequence[str], scopes: Mapping[str, str] | None = None) -> None:
        """Forget vectors, wherever they are; keys that are not there are passed over."""
        for scope in {self._scopes.get(key, "") for key in keys}:
            gone = [key for key in keys if self._scopes.get(key, "") == scope]
            await self._index.remove(self.partition(scope), gone)
            for key in gone:
                self._scopes.pop(key, None)

    async def clear(self) -> None:
        """Forget all vectors."""
        self._generation += 1
        await self._index.drop()
        self._scopes.clear()

    async def catch_up(self) -> None:
        """Bring the index up to date.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A lock belongs to the loop that waited on it first; that one is closed, see `PerLoop`.
            self._loop, self._lock = loop, asyncio.Lock()
        async with self._lock:
            if self._cursor is not None and self._monotonic() < self._next_look:
                return
            if self._cursor is None and not await self._restore():
                await self._read_all()
            try:
                await self._read_new()
            except JournalGap:
                await self._read_all()
            # What expired sends no note and stays until it is a candidate: begin anew when it may be half of all.
            if await self._index.size() > 2 * self._size_after_full_read + _SLACK:
                await self._read_all()
            self._next_look = self._monotonic() + _EVERY_SECONDS
        if self._changes >= _SAVED_MEANWHILE and (self._saving is None or self._saving.done()):
            # Not awaited: whoever searches must not wait for a file.
            self._saving = loop.create_task(self.save())

    async def save(self) -> None:
        """Write a snapshot, where there is somewhere to and enough has changed."""
        if self._snapshot is not None and self._cursor is not None and self._changes >= _WORTH_SAVING:
            self._changes = 0
            generation = self._generation
            try:
                await self._snapshot.write(self._cursor)
                if generation != self._generation:
                    # It was emptied and filled anew meanwhile: what was written may be a part of it.
                    await self._snapshot.discard()
            except BackendUnavailable as exc:
                logger.warning("the index will be read anew at the next start: %s", exc)

    async def aclose(self) -> None:
        """Write a snapshot, if it is worth it."""
        if self._saving is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait((self._saving,))
        await self.save()

    async def _restore(self) -> bool:
        """Take over a snapshot; tell whether there was one to be trusted."""
        if self._snapshot is None:
            return False
        found = await self._snapshot.read()
        if found is None:
            return False
        self._scopes = {
            key: sys.intern(name.removeprefix(self._prefix))
            for name, keys in self._snapshot.members()
            if name != self._prefix
            for key in keys
        }
        self._size_after_full_read = await self._index.size()
        self._cursor = found
        return True

    async def _read_all(self) -> None:
        # Until this is through the index is not to be trusted; a failure in the middle begins anew.
        self._cursor = None
        # The cursor is taken first: what is written meanwhile is read twice, never missed.
        cursor = await self._journal.tail(self._stream)
        await self.clear()
        page: list[str] = []
        async for key in self._backend.scan(self._prefix):
            page.append(key)
            if len(page) == _PAGE:
                await self._load(page)
                page = []
                await asyncio.sleep(0)  # stores of this process never wait, and reading a large one takes seconds
        await self._load(page)
        self._cursor = cursor
        self._size_after_full_read = await self._index.size()
        if self._on_others is not None and not self._size_after_full_read:
            # "cm1:vec:name:" of "cm1:vec:name:kspace/": a namespace holds no colon.
            prefix = ":".join([*self._prefix.split(":")[:3], ""])
            async for _ in self._backend.scan(prefix):
                on_others, self._on_others = self._on_others, None
                on_others()
                break

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
        self._changes += len(keys)
        records = await self._backend.get_many(keys)
        rows = {}
        scopes = {}
        for key, record in records.items():
            try:
                found = decode_vector(record.value, dims=self._dims)
            except CorruptRecord as exc:
                self._listener(CorruptEvent(self._backend.name, key, str(exc)))
                continue
            rows[key], scopes[key] = found.as_array(), found.scope
        await self.remove([key for key in keys if key not in rows])
        if rows:
            await self.put(rows, scopes)
