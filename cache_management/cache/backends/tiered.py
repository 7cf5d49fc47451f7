"""A bounded memory in front of a store that others share.

A copy is served only while the store tells what others change (see `Watched`), so it is never
older than what they wrote a moment ago. What is uncertain is not kept: a read or a write whose
key changes meanwhile, a read beside a write, and everything when the store fell silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.wrapped import FullBackend, WrappedBackend
from cache_management.cache.records import Record

_DOUBT_SECONDS = 60.0  # far longer than any call's time budget
_MANY_TRIPS = 10_000
_HITS_UNTOLD = 8  # of so many served copies the store hears of one: enough to know what is used


class TieredBackend(WrappedBackend):
    """Answers from memory what it read or wrote before, and everything else from the store behind.

    Args:
        inner: The store behind; it alone decides what is true.
        near: The memory in front, used by nobody else.
        prefixes: What the storage keys begin with of which copies are kept.
    """

    def __init__(
        self,
        inner: FullBackend,
        near: MemoryBackend,
        *,
        prefixes: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._near = near
        self._prefixes = tuple(prefixes)
        self._monotonic = monotonic
        self._under_way: dict[str, _Trip] = {}
        self._hits = 0
        inner.watch(prefixes, self._on_change)

    def peek(self, key: str) -> Record | None:
        if not self.inner.is_current():
            return None
        record = self._near.peek(key)
        if record is not None:
            self._hits += 1
            if not self._hits % _HITS_UNTOLD:
                self.inner.touched(key)
        return record

    async def get(self, key: str) -> Record | None:
        record = self.peek(key)
        if record is None:
            with self._reading((key,)) as read:
                record = await self.inner.get(key)
                if record is not None:
                    read[key] = record
        return record

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        if self.inner.is_current():
            found = {key: record for key in keys if (record := self._near.peek(key)) is not None}
            keys = [key for key in keys if key not in found]
        if keys:
            with self._reading(keys) as read:
                read.update(await self.inner.get_many(keys))
            found.update(read)
        return found

    async def put(self, key: str, record: Record) -> None:
        with self._writing((key,)) as written:
            await self.inner.put(key, record)
            written[key] = record

    async def put_many(self, records: Mapping[str, Record]) -> None:
        with self._writing(tuple(records)) as written:
            await self.inner.put_many(records)
            written.update(records)

    async def delete_many(self, keys: Sequence[str]) -> int:
        with self._writing(keys):
            return await self.inner.delete_many(keys)

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        with self._writing((key,)) as written:
            is_stored = await self.inner.put_if(key, record, expected=expected)
            if is_stored:
                written[key] = record
        return is_stored

    async def delete_if(self, key: str, *, expected: int) -> bool:
        with self._writing((key,)):
            return await self.inner.delete_if(key, expected=expected)

    async def delete_older(self, keys: Sequence[str], version: int) -> list[str]:
        with self._writing(keys):
            return await self.inner.delete_older(keys, version)

    async def aclose(self) -> None:
        self._on_change(None)
        await self.inner.aclose()

    @contextmanager
    def _reading(self, keys: Sequence[str]) -> Iterator[dict[str, Record]]:
        """Keep what the block puts into the dict, if nothing happened to its key meanwhile."""
        trips = {}
        for key in set(keys):
            trip = self._trip(key)
            if trip is None:
                trip = self._under_way[key] = _Trip(is_write=False)
            elif trip.is_write:
                continue
            trip.calls += 1
            trips[key] = trip
        read: dict[str, Record] = {}
        try:
            yield read
        finally:
            self._end(trips, read)

    @contextmanager
    def _writing(self, keys: Sequence[str]) -> Iterator[dict[str, Record]]:
        """Keep what the block puts into the dict; reads that began before, and two writes at once, keep nothing."""
        trips = {}
        for key in set(keys):
            self._near.discard(key)
            trip = self._trip(key)
            if trip is not None:
                trip.is_certain = False
            if trip is None or not trip.is_write:
                trip = self._under_way[key] = _Trip(is_write=True)
            trip.calls += 1
            trips[key] = trip
        written: dict[str, Record] = {}
        try:
            yield written
        except asyncio.CancelledError:
            # Nobody waits for it, and yet it may still be written, unseen by this watcher.
            now = self._monotonic()
            for trip in trips.values():
                trip.doubtful_until = now + _DOUBT_SECONDS
            self._end(trips, {})
            if len(self._under_way) > _MANY_TRIPS:
                live = {key: trip for key, trip in self._under_way.items() if trip.calls or now < trip.doubtful_until}
                self._under_way = live
            raise
        except BaseException:
            self._end(trips, {})
            raise
        else:
            self._end(trips, written)

    def _trip(self, key: str) -> _Trip | None:
        trip = self._under_way.get(key)
        if trip is not None and not trip.calls and self._monotonic() >= trip.doubtful_until:
            del self._under_way[key]
            return None
        return trip

    def _end(self, trips: Mapping[str, _Trip], records: Mapping[str, Record]) -> None:
        # Asked before anything is kept: the store may tell of changes only when it is asked.
        is_current = self.inner.is_current()
        for key, trip in trips.items():
            trip.calls -= 1
            if not trip.calls and not trip.doubtful_until and self._under_way.get(key) is trip:
                del self._under_way[key]
            record = records.get(key)
            if record is not None and is_current and trip.is_certain and key.startswith(self._prefixes):
                self._near.keep(key, record)

    def _on_change(self, keys: Sequence[str] | None) -> None:
        if keys is None:
            self._near.clear()
            keys = list(self._under_way)
        for key in keys:
            self._near.discard(key)
            trip = self._under_way.get(key)
            if trip is not None:
                trip.is_certain = False
                if not trip.is_write:
                    del self._under_way[key]  # reads that begin now see what changed


class _Trip(msgspec.Struct, gc=False):
    """Calls for one key that wait for the store; what they bring is kept while it is certain.

    A write that was cancelled leaves its key in doubt for a while after its last call.
    """

    is_write: bool
    calls: int = 0
    is_certain: bool = True
    doubtful_until: float = 0.0
