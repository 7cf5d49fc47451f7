"""Time and versions. Passed in everywhere, so that tests never sleep."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns Unix seconds, UTC."""

_COUNTER_BITS = 20


def system_clock() -> float:
    """Return Unix seconds, UTC."""
    return time.time()


def version_at(unix_seconds: float) -> int:
    """Return the smallest version that belongs to a moment."""
    return round(unix_seconds * 1000) << _COUNTER_BITS


def version_until(unix_seconds: float) -> int:
    """Return the largest version that belongs to a moment."""
    return version_at(unix_seconds) + (1 << _COUNTER_BITS) - 1


def version_time(version: int) -> float:
    """Return the moment of a version, in Unix seconds with millisecond resolution."""
    return (version >> _COUNTER_BITS) / 1000


def run_version(clock: Clock = system_clock) -> int:
    """Return the version of a whole run, such as a warm job: unlike that of a run in the same millisecond."""
    return version_at(clock()) + secrets.randbits(_COUNTER_BITS - 1)


class VersionClock:
    """Gives versions that only grow: milliseconds, then a counter (a hybrid logical clock).

    The counter keeps versions apart within one millisecond and when the system
    clock steps back. Safe to share between threads.

    Source: Kulkarni et al., "Logical Physical Clocks", 2014, without the node part.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """Return a version larger than every earlier one."""
        with self._lock:
            version = version_at(self._clock())
            if version <= self._last:
                version = self._last + 1
            self._last = version
            return version

    def observe(self, version: int) -> None:
        """Make every later version larger than `version`."""
        with self._lock:
            self._last = max(self._last, version)
