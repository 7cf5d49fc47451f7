"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time

import redis


class ManualClock:
    """Starts at the real time, because a Redis server keeps expiries by its own clock."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def remove_expired(url: str, clock: ManualClock) -> None:
    """Remove what a Redis server would have expired by now: its own clock cannot be moved."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            if 0 <= client.pexpiretime(key) <= clock.now * 1000:
                client.delete(key)
