"""Reads of one turn of the event loop travel together."""

from __future__ import annotations

import asyncio

from cache_management.cache.backends.wrapped import FullBackend, WrappedBackend
from cache_management.cache.records import Record

_MOST_AT_ONCE = 200


class BatchingBackend(WrappedBackend):
    """Joins the `get`s of one loop turn into one `get_many`.

    The first of a turn goes at once, alone, so that a lone read waits for nobody; those that
    come in the same turn are collected and go when it ends. A caller that is cancelled leaves
    the others alone; a failed batch fails its own callers only.
    """

    def __init__(self, inner: FullBackend) -> None:
        super().__init__(inner)
        self._turn: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, list[asyncio.Future[Record | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> Record | None:
        loop = asyncio.get_running_loop()
        if self._turn is not loop:
            # A turn of another loop that never ended left its callers with that loop.
            self._turn = loop
            self._waiting = {}
            loop.call_soon(self._end_turn)
            return await self.inner.get(key)
        future: asyncio.Future[Record | None] = loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        return await future

    def _end_turn(self) -> None:
        self._turn = None
        waiting, self._waiting = self._waiting, {}
        keys = list(waiting)
        for start in range(0, len(keys), _MOST_AT_ONCE):
            part = {key: waiting[key] for key in keys[start : start + _MOST_AT_ONCE]}
            task = asyncio.get_running_loop().create_task(self._fetch(part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch(self, waiting: dict[str, list[asyncio.Future[Record | None]]]) -> None:
        futures = [future for each in waiting.values() for future in each]
        try:
            found = await self.inner.get_many(list(waiting))
        except BaseException as exc:  # whatever it is, it belongs to those who wait
            for future in futures:
                if not future.done():
                    future.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
            return
        for key, callers in waiting.items():
            for future in callers:
                if not future.done():
                    future.set_result(found.get(key))
