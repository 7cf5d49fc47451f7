"""Wait for a condition instead of for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


def wait_until(predicate: Callable[[], object], timeout: float = 10.0, *, pause: float = 0.02) -> None:
    """Look at a condition until it holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() >= deadline:
            raise AssertionError(f"still not true after {timeout:g} s: {predicate}")
        time.sleep(pause)


async def eventually(predicate: Callable[[], Awaitable[object]], timeout: float = 10.0, *, pause: float = 0.02) -> None:
    """Await a condition until it holds, letting the loop run; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not await predicate():
        if time.monotonic() >= deadline:
            raise AssertionError(f"still not true after {timeout:g} s: {predicate}")
        await asyncio.sleep(pause)
