"""What belongs to one event loop: indexes and readers of journals, which no two threads may use at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Gives each event loop an object of its own, as if each were a process.

    What a closed loop leaves behind goes to the next one that comes, so programs that run one loop after
    the other make it once. Safe to share between threads, and after a fork.

    Args:
        make: Makes one, on the loop that it is for.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held: dict[asyncio.AbstractEventLoop, T] = {}
        self._lock = threading.Lock()

    def get(self) -> T:
        """Return the one of the running loop."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is not None:
            return held
        with self._lock:
            left = [each for each in self._held if each.is_closed()]
            held = self._held.pop(left[0]) if left else self._make()
            for each in left[1:]:
                del self._held[each]  # one loop takes one over; the others would only hold memory
            self._held[loop] = held
            return held

    def all(self) -> list[T]:
        """Return those that there are."""
        with self._lock:
            return list(self._held.values())

    def clear(self) -> None:
        """Forget them."""
        with self._lock:
            self._held.clear()
