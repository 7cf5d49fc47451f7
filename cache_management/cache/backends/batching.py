"""Reads of one turn of the event loop travel together."""

from __future__ import annotations

import asyncio

from cache_management.cache.backends.wrapped import FullBackend, WrappedBackend
from cache_management.cache.records import Record

_MOST_AT_ONCE = 200

Waiting = dict[str, list[asyncio.Future[Record | None]]]


class BatchingBackend(WrappedBackend):
    """Joins the `get`s of one loop turn into one `get_many`.

    The first of a turn goes at once, alone, so that a lone read waits for nobody; those that
    come in the same turn are collected and go when it ends. A caller that is cancelled leaves
    the others alone; a failed batch fails its own callers only. Loops of several threads batch apart.
    """

    def __init__(self, inner: FullBackend) -> None:
        super().__init__(inner)
        self._turns: dict[asyncio.AbstractEventLoop, Waiting] = {}  # of the loops that are within one
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> Record | None:
        loop = asyncio.get_running_loop()
        waiting = self._turns.get(loop)
        if waiting is None:
            if self._turns:
                self._forget_closed_loops()
            self._turns[loop] = {}
            loop.call_soon(self._end_turn, loop)
            return await self.inner.get(key)
        future: asyncio.Future[Record | None] = loop.create_future()
        waiting.setdefault(key, []).append(future)
        return await future

    def _forget_closed_loops(self) -> None:
        """Drop turns that never ended, because their loop was stopped within them."""
        for loop in list(self._turns):
            if loop.is_closed():
                self._turns.pop(loop, None)

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._turns.pop(loop)
        keys = list(waiting)
        for start in range(0, len(keys), _MOST_AT_ONCE):
            part = {key: waiting[key] for key in keys[start : start + _MOST_AT_ONCE]}
            task = loop.create_task(self._fetch(part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch(self, waiting: Waiting) -> None:
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
