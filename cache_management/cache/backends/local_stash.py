"""A stash within one process."""

from __future__ import annotations

from collections.abc import Sequence

from cache_management.cache.backends.base import Stash
from cache_management.cache.backends.local_lock import local_lock
from cache_management.cache.clock import Clock, system_clock


class LocalStash(Stash):
    """Keeps pieces in a dict, for all threads."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._stash_clock = clock
        self._lock = local_lock()
        self._pieces: dict[str, tuple[bytes, float]] = {}

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        now = self._stash_clock()
        with self._lock:
            for old in [old for old, (_, until) in self._pieces.items() if until <= now]:
                del self._pieces[old]
            self._pieces[name] = (piece, now + ttl_seconds)

    async def stashed(self, name: str) -> bytes | None:
        now = self._stash_clock()
        with self._lock:
            held = self._pieces.get(name)
            return None if held is None or held[1] <= now else held[0]

    async def drop_stashed(self, names: Sequence[str]) -> None:
        with self._lock:
            for name in names:
                self._pieces.pop(name, None)
