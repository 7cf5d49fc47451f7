"""Tags within one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cache_management.cache.backends.base import Tags
from cache_management.cache.backends.local_lock import local_lock
from cache_management.cache.clock import Clock, system_clock

_SWEEP_FROM = 128


class LocalTags(Tags):
    """Keeps tags in a dict, for all threads; what expired is swept out whenever a tag has doubled."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._tag_clock = clock
        self._lock = local_lock()
        self._tags: dict[str, dict[str, float | None]] = {}
        self._sweep_at: dict[str, int] = {}

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        now = self._tag_clock()
        with self._lock:
            for tag, keys in tags.items():
                held = self._tags.setdefault(tag, {})
                held.update(keys)
                if len(held) >= self._sweep_at.get(tag, _SWEEP_FROM):
                    self._tags[tag] = _alive(held, now)
                    self._sweep_at[tag] = max(_SWEEP_FROM, 2 * len(self._tags[tag]))

    async def tagged(self, tag: str) -> list[str]:
        now = self._tag_clock()
        with self._lock:
            return list(_alive(self._tags.get(tag, {}), now))

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        with self._lock:
            for tag, keys in tags.items():
                held = self._tags.get(tag, {})
                for key in keys:
                    held.pop(key, None)
                if not held:
                    self._tags.pop(tag, None)
                    self._sweep_at.pop(tag, None)


def _alive(held: Mapping[str, float | None], now: float) -> dict[str, float | None]:
    return {key: expires_at for key, expires_at in held.items() if expires_at is None or expires_at > now}
