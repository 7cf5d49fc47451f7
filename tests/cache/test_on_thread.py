"""Functions of the application on threads of their own."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Coroutine
from typing import Any

import pytest

from cache_management.cache.on_thread import on_thread


async def test_a_coroutine_that_comes_too_late_is_closed() -> None:
    may_end = threading.Event()
    late: list[Coroutine[Any, Any, object]] = []

    def call() -> Coroutine[Any, Any, object]:
        may_end.wait()
        late.append(asyncio.sleep(0))
        return late[0]

    waiting = asyncio.create_task(on_thread(call, name="late"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    while not late or late[0].cr_frame is not None:  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        late.clear()
