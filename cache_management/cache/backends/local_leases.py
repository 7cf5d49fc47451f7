"""Leases within one process."""

from __future__ import annotations

from cache_management.cache.backends.base import Leases
from cache_management.cache.backends.local_lock import local_lock
from cache_management.cache.clock import Clock, system_clock


class LocalLeases(Leases):
    """Keeps leases in a dict: between the tasks and threads of one process, not between processes."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._lease_clock = clock
        self._lock = local_lock()
        self._leases: dict[str, tuple[str, float]] = {}
        self._last_token = 0

    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        now = self._lease_clock()
        with self._lock:
            held = self._leases.get(name)
            if held is not None and held[1] > now:
                return None
            self._leases[name] = (owner, now + ttl_seconds)
            self._last_token += 1
            return self._last_token

    async def renew(self, name: str, *, owner: str, ttl_seconds: float) -> bool:
        now = self._lease_clock()
        with self._lock:
            held = self._leases.get(name)
            if held is None or held[0] != owner or held[1] <= now:
                return False
            self._leases[name] = (owner, now + ttl_seconds)
            return True

    async def release(self, name: str, *, owner: str) -> bool:
        now = self._lease_clock()
        with self._lock:
            held = self._leases.get(name)
            if held is None or held[0] != owner:
                return False
            del self._leases[name]
            return held[1] > now
