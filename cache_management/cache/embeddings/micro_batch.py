"""Calls that wait while the model runs go through it together."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

_MOST_TEXTS = 256


class MicroBatcher:
    """One thread for one model: any number of tasks, threads and event loops may ask it.

    A call alone goes at once; nothing waits for company.
    """

    def __init__(self, encode: Callable[[list[str]], NDArray[np.float32]]) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache-embed")

    async def run(self, work: Callable[[], T]) -> T:
        """Do something else on the model's thread, in turn with its batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one row for each text; whoever is cancelled leaves the others alone."""
        call = _Call(list(texts))
        with self._lock:
            self._waiting.append(call)
        self._thread.submit(self._next_batch)
        return await asyncio.wrap_future(call.rows)

    def _next_batch(self) -> None:
        # One of these was submitted for each call, so those that find nobody waiting end at once.
        calls = [call for call in self._take() if call.rows.set_running_or_notify_cancel()]
        if not calls:
            return
        try:
            rows = self._encode([text for call in calls for text in call.texts])
        except BaseException as exc:  # noqa: BLE001 - whoever asked is told
            if len(calls) == 1:
                calls[0].rows.set_exception(exc)
                return
            # Whose text it was is not known: each alone, so that nobody pays for a neighbour.
            for call in calls:
                self._alone(call)
            return
        at = 0
        for call in calls:
            call.rows.set_result(rows[at : at + len(call.texts)])
            at += len(call.texts)

    def _take(self) -> list[_Call]:
        with self._lock:
            calls: list[_Call] = []
            texts = 0
            while self._waiting and (not calls or texts + len(self._waiting[0].texts) <= _MOST_TEXTS):
                calls.append(self._waiting.popleft())
                texts += len(calls[-1].texts)
            return calls

    def _alone(self, call: _Call) -> None:
        try:
            call.rows.set_result(self._encode(call.texts))
        except BaseException as exc:  # noqa: BLE001 - whoever asked is told
            call.rows.set_exception(exc)


class _Call:
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.rows: Future[NDArray[np.float32]] = Future()
