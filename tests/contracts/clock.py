"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time


class ManualClock:
    """Starts at the real time, because a Redis server keeps expiries by its own clock."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
