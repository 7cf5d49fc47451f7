"""How much a step takes on, so that a pause or a cancel takes hold within a second, however slow the work is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

STEP_SECONDS = 0.5


class Pace:
    """Learns from each step how many items fill half a second; between `least` and `most`, to begin with `most`."""

    def __init__(self, *, least: int, most: int) -> None:
        self._least, self._most = least, most
        self.size = most

    def learn(self, items: int, seconds: float) -> None:
        """Note that so many items took so long."""
        if items <= 0 or seconds <= 0:
            return
        fitting = items * STEP_SECONDS / seconds
        if fitting > self.size:
            # One quick step may have been of short texts: faster again by and by, slower at once.
            fitting = min(fitting, 2.0 * self.size)
        self.size = int(min(max(fitting, self._least), self._most))

    @contextmanager
    def measured(self, items: int) -> Iterator[None]:
        """Learn from what is done within."""
        started = monotonic()
        yield
        self.learn(items, monotonic() - started)
